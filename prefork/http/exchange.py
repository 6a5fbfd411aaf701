"""The exchange: a request and its response, whichever version of HTTP carries them.

Owns the end of one that goes wrong: the log entry, the 500, and the closing of the body.
"""

from __future__ import annotations

from prefork.http.message import Body, FileSegment, Request, Response, plain
from prefork.logger import log


def failed(request: Request, error: BaseException) -> Response:
    """Log `error`, which an application or a handler raised, with its stack. Returns the 500 for the client."""
    log.error("%s %s failed: %r", request.method, request.target, error, exc_info=error)
    return plain(500)


async def release(body: Body) -> None:
    """Close a response's body, whether it was sent or not."""
    if isinstance(body, FileSegment):
        body.close()
    elif not isinstance(body, bytes):
        await body.aclose()
