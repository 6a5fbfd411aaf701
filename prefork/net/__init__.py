"""Sockets: listeners and connected streams, non-blocking, on the runtime's loop. They know no protocol."""
