"""The exchange: a request and its response, whichever version carries them. Owns how one ends that goes wrong."""

from __future__ import annotations

from prefork.http.message import Body, FileSegment, Request, Response, plain
from prefork.logger import log


def failed(request: Request, error: BaseException) -> Response:
    """Log what an application or a handler raised, with its stack; the client's 500."""
    log.error("%s %s failed: %r", request.method, request.target, error, exc_info=error)
    return plain(500)


async def release(body: Body) -> None:
    """Close a body, sent or not."""
    if isinstance(body, FileSegment):
        body.close()
    elif not isinstance(body, bytes):
        await body.aclose()
