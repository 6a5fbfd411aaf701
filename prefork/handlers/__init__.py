"""Handlers: Request -> Response, a folder or a file each. The router chooses a request's handler; build makes them.

A handler is a coroutine function, and knows nothing of connections, of other handlers, or of the configuration file:
build.py gives it what it needs. Error pages and encoding concern several of them, and are wrappers around a handler.
"""
