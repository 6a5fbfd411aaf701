"""HTTP/1.0 and 1.1 (RFC 9112): from bytes to requests, and from responses to bytes, on one connection."""
