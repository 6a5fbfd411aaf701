"""Sockets: doors (listeners) and conversations (streams), non-blocking, on the runtime's loop. No protocol in here."""
