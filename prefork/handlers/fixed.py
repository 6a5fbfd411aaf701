"""Fixed answers: a text, or a redirect."""

from __future__ import annotations

from math import inf

from prefork.http.message import Handler, Repeatable, Request, Response
from prefork.settings.requests import REQUEST_URI
from prefork.settings.schema import Redirect, Respond


def respond(settings: Respond) -> Handler:
    """The same response to every request."""
    headers = (("Content-Type", settings.type), *settings.headers.items())
    response = Repeatable(settings.status, headers, settings.body.encode(), inf)

    async def handle(request: Request) -> Response:
        return response

    return handle


def redirect(settings: Redirect) -> Handler:
    """A redirect to `settings.to` (RFC 9110 §15.4). There, REQUEST_URI stands for the request's path and query."""
    fixed = Response(settings.status, (("Location", settings.to),))
    keeps = REQUEST_URI in settings.to

    async def handle(request: Request) -> Response:
        if not keeps:
            return fixed
        return Response(settings.status, (("Location", settings.to.replace(REQUEST_URI, request.line.origin)),))

    return handle
