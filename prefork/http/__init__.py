"""HTTP/1.1 (RFC 9110, RFC 9112): from bytes to requests and from responses to bytes.

It knows nothing of files, applications or configuration files. What faces the network is strict: what two servers could
read in two ways is refused, so that nothing can be smuggled past a proxy in front (RFC 9112 §11.2).
"""
