"""Error pages: the operator's own in the place of the small texts that the server answers with by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prefork.http.media import content_type
from prefork.http.message import Handler, Plain, Request, Response


class ErrorPages:
    """`files` maps statuses, as text, to the files of their pages, which are read once. Raises OSError."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._pages = {int(status): (content_type(os.fsencode(name)), _read(name)) for status, name in files.items()}

    def with_error_page(self, response: Response) -> Response:
        """`response` with the page of its status, if it has one and is the server's own word, not an application's."""
        if not isinstance(response, Plain) or response.status not in self._pages:
            return response
        kind, page = self._pages[response.status]
        others = [field for field in response.headers if field[0] != "Content-Type"]
        return Response(response.status, (("Content-Type", kind), *others), page)

    def around(self, handler: Handler) -> Handler:
        """`handler`, its answers with their error pages; itself where there are no pages, so that nothing is paid for
        them.
        """
        if not self._pages:
            return handler

        async def handle(request: Request) -> Response:
            return self.with_error_page(await handler(request))

        return handle


def _read(name: str) -> bytes:
    return Path(name).read_bytes()
