"""Request bodies that a WSGI application reads as they arrive, where its route has `request_buffering = false`.

The application's thread asks for a piece and waits; the loop, led by another thread, reads that one and no other, so a
client that is ahead of the application waits too. What is wrong with the body is raised in the application and, where
no answer is on its way yet, comes before what that makes of it: the client gets the same 4xx as elsewhere.
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
    """`handler`, that of a WSGI application called by `pool`, with bodies that are read while it is at work."""

    def __init__(self, handler: Handler, pool: ThreadPool) -> None:
        self._handler = handler
        self._pool = pool

    async def handle(self, request: Request) -> Response:
        """Raises what the handler raises, and ProtocolError or Disconnected where the body ends by that."""
        if not request.headers.has_body:
            return await self._handler(request)
        asked = request.body
        # asked again for a call that has written, whose reader is there: see wsgi/write.py
        reader = asked if isinstance(asked, BodyReader) else BodyReader(asked, request, self._pool)
        body = reader.body
        request.body = cast(RequestBody, reader)  # as far as a WSGI handler uses one
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
    """What is to come of `body`, for a thread that may wait for it; `error` says why there will be no more.

    The thread calls `readinto`, and the leader of `pool` all else.
    """

    def __init__(self, body: RequestBody, request: Request, pool: ThreadPool) -> None:
        self.error: ProtocolError | Disconnected | None = None
        self.body = body
        self._pool = pool
        self._request = request
        self._piece = memoryview(b"")
        self._reading: tuple[Task, Call] | None = None
        self._stopped = False
        self._answered = threading.Event()

    async def spool(self) -> IO[bytes]:
        """The body as a file, with what is here already. Raises ProtocolError."""
        self._piece = memoryview(self.body.arrived())
        return io.BufferedReader(self, BUFFER)

    @property
    def client_left(self) -> bool:
        return self.body.client_left

    # ---- the application's thread

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has any buffer; this is what comes
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
        """Have a piece read, for a call that somebody waits for."""
        call = next((call for call in self._pool.calls.under_way.values() if call.what is self._request), None)
        if call is None or call.abandoned:
            self._stopped = True
        if call is None or self._stopped:
            self._answered.set()
        else:
            call.since = inf  # it is the client that takes its time, and has its own time-out
            self._reading = self._pool.loop.spawn(self._read(call), "reading a request body"), call

    async def _read(self, call: Call) -> None:
        try:
            self._piece = memoryview(await self.body.piece())
        except (ProtocolError, Disconnected) as error:
            self.error = error
        finally:
            self._settle(call)

    def _settle(self, call: Call) -> None:
        """Let the thread go on: from now on it is the application that takes its time."""
        self._reading = None
        call.since = monotonic()
        self._answered.set()

    def stop(self) -> None:
        """Read no more: from here on the body is the connection's."""
        self._stopped = True
        if self._reading is not None:
            task, call = self._reading
            task.cancel()  # before its first step there is no `finally` to do the rest
            self._settle(call)


class _Answering:
    """A response in `pieces`, during which the request body may still be read."""

    def __init__(self, pieces: Chunks, reader: BodyReader) -> None:
        self.prompt = pieces.prompt
        self._pieces = pieces
        self._reader = reader

    def __aiter__(self) -> _Answering:
        self._iterator = aiter(self._pieces)
        return self

    async def __anext__(self) -> bytes:
        """Raises Disconnected where the application could not go on for want of the body."""
        try:
            return await anext(self._iterator)
        except Exception as error:
            if self._reader.error is None:
                raise
            raise Disconnected(f"an answer was cut short: {self._reader.error}") from error

    async def aclose(self) -> None:
        self._reader.stop()
        await self._pieces.aclose()
