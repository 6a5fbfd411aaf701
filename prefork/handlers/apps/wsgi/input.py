"""Request bodies that a WSGI application reads as they arrive, where its route has `request_buffering = false`.

The application's thread asks for a piece and waits. Another thread, which leads the loop, reads that one piece and no
more, so a client that is ahead of the application must wait too. An error in the body is raised in the application.
Where no response is on its way yet, the error also replaces the application's response: so the client gets the same 4xx
as from a route that buffers the body.
"""

from __future__ import annotations

import io
import threading
from math import inf
from time import monotonic
from typing import IO, cast

from prefork.errors import Abandoned, BodyLost, Disconnected, ProtocolError
from prefork.http.exchange import release
from prefork.http.message import Chunks, FileSegment, Handler, Request, RequestBody, Response, Upgrade
from prefork.runtime import forks
from prefork.runtime.calls import Call
from prefork.runtime.task import Task
from prefork.runtime.threads import ThreadPool

BUFFER = 64 * 1024  # bytes that an application's small reads are served from


class Unbuffered:
    """Wraps `handler`, that of a WSGI application called by `pool`: it reads request bodies during the call."""

    def __init__(self, handler: Handler, pool: ThreadPool) -> None:
        self._handler = handler
        self._pool = pool

    async def handle(self, request: Request) -> Response:
        """Raises any exception of the handler, and ProtocolError or Disconnected where that cut the body short."""
        if request.body.size == 0:
            return await self._handler(request)
        asked = request.body
        # after a write(), the handlers are called again with the same request, which has its BodyReader (wsgi/write.py)
        reader = asked if isinstance(asked, BodyReader) else BodyReader(asked, request, self._pool)
        body = reader.body
        request.body = cast(RequestBody, reader)  # it has only those methods of a RequestBody that a WSGI handler uses
        try:
            response = await self._handler(request)
        except BaseException as error:
            reader.stop()
            if reader.error is None or isinstance(error, Abandoned) or not isinstance(error, Exception):
                raise
            raise reader.error from error
        finally:
            request.body = body
        if isinstance(response.body, (bytes, FileSegment, Upgrade)):
            reader.stop()
        else:
            response.body = _Answering(response.body, reader)
        if reader.error is not None:
            await release(response.body)
            raise reader.error
        return response


class BodyReader(io.RawIOBase):
    """The rest of `body` as a raw file, for a thread that may wait for it. `error` is the exception that has cut the
    body short, or None.

    The application's thread calls `readinto`, and the leader of `pool` all else.
    """

    def __init__(self, body: RequestBody, request: Request, pool: ThreadPool) -> None:
        self.error: ProtocolError | Disconnected | None = None
        self.body = body
        self.size = body.size
        self._pool = pool
        self._request = request
        self._piece = memoryview(b"")
        self._reading: tuple[Task, Call] | None = None
        self._stopped = False
        self._answered = threading.Event()

    async def spool(self) -> IO[bytes]:
        """The body as a file, which begins with the bytes that have arrived already. Raises ProtocolError."""
        self._piece = memoryview(self.body.arrived())
        return io.BufferedReader(self, BUFFER)

    @property
    def client_left(self) -> bool:
        return self.body.client_left

    # ---- the application's thread

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview only
        """Wait for a piece of the body; 0 at its end. Raises BodyLost."""
        if not self._piece and not self.body.ended:
            self._ask()
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def _ask(self) -> None:
        if forks.forked:
            raise BodyLost("this process was forked by the application: its parent has the rest of the body")
        if self.error is None and not self._stopped:
            self._answered.clear()
            self._pool.step_down()
            self._pool.call_soon(self._fetch)
            self._answered.wait()
        if self.error is not None:
            raise BodyLost(str(self.error)) from self.error
        if self._stopped:
            raise BodyLost("the request has been answered")

    # ---- the leader

    def _fetch(self) -> None:
        """Have a piece read, unless the call is over or abandoned."""
        call = next((call for call in self._pool.calls.under_way.values() if call.what is self._request), None)
        if call is None or call.abandoned:
            self._stopped = True
        if call is None or self._stopped:
            self._answered.set()
        else:
            call.since = inf  # the call waits for its client, for which http.body_timeout applies instead
            self._reading = self._pool.loop.spawn(self._read(call), "reading a request body"), call

    async def _read(self, call: Call) -> None:
        try:
            self._piece = memoryview(await self.body.piece())
        except (ProtocolError, Disconnected) as error:
            self.error = error
        finally:
            self._settle(call)

    def _settle(self, call: Call) -> None:
        """Let the thread go on; the call's time-out counts from now."""
        self._reading = None
        call.since = monotonic()
        self._answered.set()

    def stop(self) -> None:
        """Read no more: from here on only the connection may read the body."""
        self._stopped = True
        if self._reading is not None:
            task, call = self._reading
            task.cancel()
            self._settle(call)  # a task that is cancelled before its first step does not reach its `finally`


class _Answering:
    """A response body in `pieces`, while the application may still read the request body."""

    trailers = ()  # PEP 3333 has none

    def __init__(self, pieces: Chunks, reader: BodyReader) -> None:
        self.prompt = pieces.prompt
        self._pieces = pieces
        self._reader = reader

    def __aiter__(self) -> _Answering:
        self._iterator = aiter(self._pieces)
        return self

    async def __anext__(self) -> bytes:
        """Raises Disconnected where the application failed and the request body had been cut short."""
        try:
            return await anext(self._iterator)
        except Exception as error:
            if self._reader.error is None:
                raise
            raise Disconnected(f"an answer was cut short: {self._reader.error}") from error

    async def aclose(self) -> None:
        self._reader.stop()
        await self._pieces.aclose()
