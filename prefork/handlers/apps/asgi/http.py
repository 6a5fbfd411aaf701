"""One HTTP exchange of an ASGI application: its `receive` and `send`, and the response that is made of its messages.

Owns what two coroutines on one thread hand to each other: the application's, which is a task of asyncio, and the
connection's, which is a task of our loop. Each wakes the other, if that waits, when it has something for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from prefork.errors import ApplicationError, ClientGone, Disconnected, ProtocolError, ServerLeaving
from prefork.handlers.apps.asgi.messages import FIELDS, ended_by, is_hangup, to_bytes, to_fields, to_segment
from prefork.handlers.apps.asgi.phases import (
    COMPLETE,
    EXPECTED,
    GONE,
    OPEN,
    STARTED,
    STREAMING,
    UNDER_WAY,
    UNSEEN,
    WAITING,
    Trailers,
)
from prefork.handlers.apps.asgi.request_side import Message, RequestSide
from prefork.http.members import members
from prefork.http.message import Fields, FileSegment, Response
from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.task import PARKED

HIGH_WATER = 64 * 1024  # bytes that may be on their way to the client before `send` waits


class RequestCycle(RequestSide):
    """One request and its response; `response` is set once it is known, and `over` once the application has ended.

    Where the response's body comes in pieces, this object is its Chunks as well.

    When a client leaves, http.disconnect and a `send` that raises tell its application, which goes on as it likes. In
    one case it may never hear of it: it streams, has nothing to send, and relies on `send` alone, as spec_version 2.4
    was announced to it (asgi/application.py). Such an application is cancelled after `abandoned_timeout`.
    """

    # class attributes hold the defaults, as most exchanges set only a few of them
    status = 0
    fields: Fields = ()
    response: Response | None = None
    over = False
    _ended = False  # the server has cancelled the application by `end`
    _relies_on_send = False  # the response began while 2.4 was announced
    _last_resort: asyncio.TimerHandle | None = None
    error: BaseException | None = None  # the connection's task must raise it
    task: asyncio.Task[None] | None = None  # the application's: asyncio itself keeps weak references only
    _pieces: list[bytes]  # of the response body: sent by the application, and not taken by the connection
    _unsent = 0  # bytes of `_pieces`, and of the piece that the connection has taken but the client's socket has not
    _taken = 0  # bytes of that piece
    trailers: Fields = ()  # of the response, where its client takes them
    _trailing = Trailers.NONE
    _iterated = False
    _until = 0.0  # the loop's time at which `abandoned_timeout` is over

    async def live(self, application: Callable[..., Awaitable[None]], scope: dict[str, Any]) -> None:
        """The asyncio task of the application, from its beginning to its end."""
        try:
            await application(scope, self.receive, self.send)
            if forks.forked:
                forks.leave()
            if self.phase is not COMPLETE:
                self._fell_short()
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            self._failed(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.over = True
            if self._last_resort is not None:
                self._last_resort.cancel()
            if self._task is not None:
                self.host.ended(self)

    def end(self) -> None:
        """Cancel the application, as the server does not wait for it any longer. The client gets a 503, or the part of
        the response that there is.
        """
        self._ended = True
        if self.task is not None:
            self.task.cancel()

    # ---- the connection's side: a task of our loop

    async def begun(self) -> Response:
        """Wait until there is a response. Raises any Exception of the application (ApplicationError in the place of
        other ones), ProtocolError and Disconnected as the request body does, ServerLeaving after `end`.
        """
        self._task = self.host.loop.current
        if not self.over:
            self.host.under_way.add(self)
        try:
            while self.response is None or self.error is not None:
                if self.error is not None:
                    raise self.error
                if self.phase is STARTED:
                    self._begin_stream()  # the application waits, so the client must get the head now
                else:
                    await PARKED
        except BaseException:
            self._enter(GONE)
            self._stop_reading()
            raise
        if self.response.body is not self:
            self._stop_reading()
        else:
            self._read_on()  # to notice that the client leaves, as there may be nothing to send for hours
        return self.response

    @property
    def prompt(self) -> bool:
        """Whether the head must leave at once: no byte of the body waits that could go with it. An application that
        sends an empty first piece asks for that.
        """
        return not self._unsent

    def __aiter__(self) -> RequestCycle:
        self._iterated = True
        return self

    async def __anext__(self) -> bytes:
        self._unsent -= self._taken  # the client's socket has the last piece by now
        self._taken = 0
        self._tell()
        while not self._pieces:
            if self.error is not None:
                raise self.error
            if self.phase is COMPLETE:
                raise StopAsyncIteration
            await PARKED
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self._taken = len(piece)
        return piece

    async def aclose(self) -> None:
        """Take nothing more of the response, whether all of it was taken or not."""
        self._stop_reading()
        self._pieces.clear()
        if self.phase is STREAMING:
            if self._iterated:
                self._leave()
            else:  # the body is not sent (HEAD, 304), so its iteration never began
                self._until = self.host.loop.now + self.host.abandoned_timeout
                self._enter(UNSEEN)

    # ---- the application's side: asyncio

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises RuntimeError for a message that may not come now, or is malformed; ClientGone, an
        OSError, once the client is gone, or when `abandoned_timeout` is over for a body that is not sent.
        """
        kind = message["type"]
        phase = self.phase
        if kind == "http.response.start" and phase is WAITING:
            headers = tuple(message.get("headers", ()))
            try:
                self.fields = FIELDS.get(headers) or to_fields(headers)
            except TypeError:  # pairs that are lists cannot be looked up in a dict
                self.fields = to_fields(headers)
            self.status = status = message["status"]
            if not isinstance(status, int):
                raise RuntimeError(f"the status of a response is {status!r}, not an int")
            self._relies_on_send = self.request.body.size != 0 and not self.received
            if message.get("trailers"):  # a stream, even where the body is one piece: other bodies have no trailers
                self._trailing = Trailers.ANNOUNCED
                self._begin_stream()
                self._enter(STREAMING)
            else:
                self._enter(STARTED)
        elif kind == "http.response.body" and phase is STARTED and not message.get("more_body"):
            body = message.get("body", b"")
            body = body if type(body) is bytes else to_bytes(body)
            self.response = Response(self.status, self.fields, body)
            self._enter(COMPLETE)
        elif kind == "http.response.body" and phase in UNDER_WAY and self._trailing is not Trailers.DUE:
            await self._stream(to_bytes(message.get("body", b"")), bool(message.get("more_body")))
        else:
            await self._send_other(kind, message)

    async def _send_other(self, kind: str, message: Message) -> None:
        """The rest of `send`."""
        phase = self.phase
        if kind == "http.response.trailers" and phase in UNDER_WAY and self._trailing is Trailers.DUE:
            await self._add_trailers(message)
        elif kind == "http.response.pathsend" and phase is STARTED:
            self.response = Response(self.status, self.fields, to_segment(message.get("path")))
            self._enter(COMPLETE)
        elif kind == "http.response.pathsend" and phase in UNDER_WAY and self._trailing is not Trailers.DUE:
            await self._stream_file(to_segment(message.get("path")))
        elif phase is GONE:
            self._told = True
            raise ClientGone("the client is gone")
        else:
            raise RuntimeError(f"an unexpected ASGI message: {kind!r}, while {self._expected}")

    @property
    def _expected(self) -> str:
        if self._trailing is Trailers.DUE and self.phase in UNDER_WAY:
            return "http.response.trailers was due"
        return EXPECTED[self.phase]

    async def _add_trailers(self, message: Message) -> None:
        """Take fields of the trailer section. A client gets them only if it asks for them (RFC 9110 §10.1.4)."""
        if "trailers" in members(self.request.headers.get("te")):
            self.trailers = (*self.trailers, *to_fields(message.get("headers", ())))
        if not message.get("more_trailers"):
            self._trailing = Trailers.NONE
            await self._stream(b"", more=False)

    async def _stream(self, body: bytes, more: bool) -> None:
        """Send a piece of the body. Where trailers were announced, these are the end, and not the last piece."""
        if not more and self._trailing is Trailers.ANNOUNCED:
            self._trailing = Trailers.DUE
            more = True
        if self.phase is UNSEEN:
            await asyncio.sleep(0)  # let other tasks run: no client slows this application down
            if not more:
                self._enter(COMPLETE)
            elif self.host.loop.now > self._until:
                raise ClientGone("no client will see this body, and it does not end")
            return
        if self.phase is STARTED:
            self._begin_stream()
        self._pieces.append(body)
        self._unsent += len(body)
        if not more and not self._iterated and not self.trailers:
            assert self.response is not None
            self.response.body = b"".join(self._pieces)  # the body is complete, and no piece was taken yet
        self._enter(STREAMING if more else COMPLETE)
        while self._unsent > HIGH_WATER and self.phase is STREAMING:
            await self._news()
        if self.phase is GONE:
            self._told = True
            raise ClientGone("the client is gone")

    def _begin_stream(self) -> None:
        self._pieces = []
        self.response = Response(self.status, self.fields, self)
        self.phase = STREAMING

    async def _stream_file(self, segment: FileSegment) -> None:
        """Send a file piece by piece, where the response has begun already, or its body is not sent; then close it."""
        try:
            while data := os.read(segment.file, HIGH_WATER):
                await self._stream(data, more=True)
        finally:
            segment.close()
        await self._stream(b"", more=False)

    def _lost(self, error: ProtocolError | Disconnected) -> None:
        """The client has left, or has broken the protocol. The application is told that the client is gone; the
        connection raises `error`, or a Disconnected for it where the response is under way.
        """
        if self.phase is STREAMING:
            self.error = Disconnected(str(error))
            self._leave()
        elif self.phase is not COMPLETE:  # if it is, the connection will notice when it sends the rest
            self.error = error
            self._enter(GONE)

    def _leave(self) -> None:
        """The client has left during a stream. An application that may not hear of that is cancelled after
        `abandoned_timeout`.
        """
        self._enter(GONE)
        if self._relies_on_send and self.task is not None:
            self._last_resort = self.task.get_loop().call_later(self.host.abandoned_timeout, self._cancel_deaf)

    def _cancel_deaf(self) -> None:
        if self.task is not None and not self._told:
            self.task.cancel()

    def _fell_short(self) -> None:
        if self.phase is not GONE and self.phase is not UNSEEN:
            raise ApplicationError(f"the application has returned, while {self._expected}")

    def _failed(self, error: BaseException) -> None:
        """Hand an exception of the application to the connection, which logs it. Where the connection waits no more,
        log it here.
        """
        asked = f"{self.request.method} {self.request.target}"
        if self._ended and self.phase in OPEN:
            self.error = (
                Disconnected("the server leaves") if self.phase is STREAMING else ServerLeaving("the server leaves")
            )
            self._enter(GONE)
        elif self.phase is GONE or self._ended:
            if not is_hangup(error):
                log.warning("%s failed once its client had gone: %r", asked, error)
        elif self.phase is COMPLETE or self.phase is UNSEEN:
            # an application that raises after it has sent a 500, as Starlette does, leaves the logging to the server
            after = "" if self.status >= 500 else f" after its response of status {self.status}"
            log.error("%s failed%s: %r", asked, after, error, exc_info=error)
        else:
            self.error = ended_by(error)
            self._enter(GONE)
