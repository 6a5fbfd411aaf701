"""Handlers: Request -> Response, a folder or a file each. The router chooses a request's handler; build makes them."""
