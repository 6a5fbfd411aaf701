"""What the tests of static files share: how to ask the handler, and what it answered."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pytest

from prefork.handlers.files.cache import IDLE, FileCache
from prefork.handlers.files.listing import Queue
from prefork.handlers.files.static import Files
from prefork.http.message import Client, FileSegment, Headers, Request, RequestLine, Response
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import FileCache as Bounds
from prefork.settings.schema import Files as FileSettings
from prefork.shared.counters import WIDTH

SECRET = b"SECRET: outside the root"
CLIENT = Client("127.0.0.1", 50000, "http", "localhost", "8000")


class NoBody:
    size = 0

    async def spool(self) -> IO[bytes]:
        raise AssertionError("a file handler reads no body")

    def chunks(self) -> AsyncIterator[bytes]:
        raise AssertionError("a file handler reads no body")

    async def discard(self) -> bool:
        raise AssertionError("what is left of a body is the connection's affair")


def ask(files: Files, path: str | bytes, method: str = "GET", query: str = "", **fields: str) -> Response:
    """The response to `path`, which is decoded; `if_none_match="*"` is a field."""
    raw = path.encode() if isinstance(path, str) else path
    target = quote(raw) + (f"?{query}" if query else "")
    line = RequestLine(method, target, raw.decode("latin-1"), query, "", 1)
    headers = Headers.of(tuple((name.replace("_", "-"), value) for name, value in fields.items()))
    coroutine: Any = files(Request(line, headers, NoBody(), CLIENT))
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    response = stopped.value.value
    assert isinstance(response, Response)
    return response


def content(response: Response) -> bytes:
    """The body's bytes; closes a FileSegment, as the connection does."""
    if isinstance(response.body, FileSegment):
        segment = response.body
        try:
            return os.pread(segment.file, segment.count, segment.offset)
        finally:
            segment.close()
    assert isinstance(response.body, bytes)
    return response.body


def field(response: Response, name: str) -> str | None:
    values = [value for known, value in response.headers if known == name]
    assert len(values) < 2, f"{name} is sent twice"
    return values[0] if values else None


def got(files: Files, path: str | bytes) -> tuple[int, bytes]:
    response = ask(files, path)
    body = content(response)
    return response.status, body if response.status == 200 else b""


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def descriptors_at_rest() -> int:
    """How many, once those are closed that garbage of earlier tests has held: none of them is to close meanwhile."""
    gc.collect()
    return descriptors()


def serve(
    root: Path,
    mount: str = "",
    cache: FileCache | None = None,
    is_closed: Callable[[str], bool] | None = None,
    queue: Queue | None = None,
    **how: Any,
) -> Files:
    """The handler of a route with the settings `how`; what it keeps is looked at with each request."""
    settings, queue = FileSettings(root=str(root), **how), queue or Queue(Loop(make_poller("select")))
    return Files(settings, str(root), mount, cache or file_cache(valid=0.0, open_files=0), queue, is_closed)


def file_cache(board: memoryview | None = None, *, idle: float = IDLE, **bounds: Any) -> FileCache:
    board = memoryview(bytearray(8 * WIDTH)).cast("Q") if board is None else board
    return FileCache(Bounds(**bounds), board, idle=idle)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
