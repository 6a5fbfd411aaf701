"""Sockets: doors (listeners) and conversations (streams), non-blocking, on the kernel's loop. No protocol in here."""
