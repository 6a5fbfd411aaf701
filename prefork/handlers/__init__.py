"""Handlers: Request -> Response, a folder or a file each. The router says which answers what; build makes them all."""
