"""WSGI applications (PEP 3333): the environ, the call, and the thread that makes it."""
