"""HTTP/1.1 (RFC 9110, RFC 9112): from bytes to requests and from responses to bytes.

It knows no application, no directory that is served and no configuration file. The parsers are strict: they refuse a
message that two servers could read in two ways, so that no request is smuggled past a proxy in front (RFC 9112 §11.2).
"""
