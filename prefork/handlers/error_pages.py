"""Error pages: the operator's own pages, in the place of the small texts (Plain) that the server itself gives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prefork.http.media import content_type
from prefork.http.message import Handler, Plain, Request, Response


class ErrorPages:
    """`files` maps a status, as text, to the file of its page. Each file is read once, here. Raises OSError."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._pages = {int(status): (content_type(os.fsencode(name)), _read(name)) for status, name in files.items()}

    def with_error_page(self, response: Response) -> Response:
        """The error page for a Plain `response`, if its status has one; any other response unchanged.

        An application's response is never Plain, so it keeps its own body.
        """
        if not isinstance(response, Plain) or response.status not in self._pages:
            return response
        kind, page = self._pages[response.status]
        others = [field for field in response.headers if field[0] != "Content-Type"]
        return Response(response.status, (("Content-Type", kind), *others), page)

    def around(self, handler: Handler) -> Handler:
        """`handler` with error pages in its answers. Where there are no pages it is `handler` itself, at no cost."""
        if not self._pages:
            return handler

        async def handle(request: Request) -> Response:
            return self.with_error_page(await handler(request))

        return handle


def _read(name: str) -> bytes:
    return Path(name).read_bytes()
