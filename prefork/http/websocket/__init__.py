"""WebSocket (RFC 6455): the handshake and the frames. Knows no application interface."""
