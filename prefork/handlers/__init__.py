"""Handlers: Request -> Response, one file a kind. The router says which answers what; build makes them all."""
