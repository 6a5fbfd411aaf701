"""WebSocket (RFC 6455): the handshake and the conversation. Knows no application interface."""
