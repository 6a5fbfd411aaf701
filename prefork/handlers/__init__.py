"""Handlers: Request -> Response, one file a kind. What answers which request is the router's; building both is build's."""
