"""The status route: the scoreboard as JSON; 503 tells load balancers that the server is about to stop, or that no
worker serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from prefork.http.message import Handler, Request, Response, plain


def status(snapshot: Callable[[], Mapping[str, object]]) -> Handler:
    """A handler that shows `snapshot()`, the current figures, all of them JSON-able. The status is 503 where the figure
    `ready` is false, else 200; it is 405 for any method but GET and HEAD.
    """
    headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))

    async def handle(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return plain(405, ("Allow", "GET, HEAD"))
        figures = snapshot()
        text = msgspec.json.format(msgspec.json.encode(figures), indent=2)
        return Response(200 if figures.get("ready", True) else 503, headers, text + b"\n")

    return handle
