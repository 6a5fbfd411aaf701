"""WSGI applications (PEP 3333): the environ, the call, and the choice of the thread that makes it."""
