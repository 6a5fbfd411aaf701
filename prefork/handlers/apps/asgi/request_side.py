"""The request side of an ASGI exchange: `receive`, and the task that reads the body and notices when the client leaves.

Owns the waking of the two sides. The application's is a task of asyncio, the connection's a task of our loop; both run
in one thread. Each wakes the other, if that waits, when it has something for it.
"""

from __future__ import annotations

from typing import Any, Protocol

from prefork.errors import Disconnected, ProtocolError, TimedOut
from prefork.handlers.apps.asgi.messages import News
from prefork.handlers.apps.asgi.phases import OPEN, STREAMING, WAITING, Phase
from prefork.http.message import Request
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, Task

Message = dict[str, Any]


class Host(Protocol):
    """Keeps the exchanges, and the sessions of WebSockets, whose application has not ended; Asgi implements this.

    An application may go on for `abandoned_timeout` seconds with a body that is not sent.
    """

    loop: Loop
    abandoned_timeout: float
    under_way: set[Any]

    def ended(self, exchange: Any) -> None: ...


class RequestSide:
    """The part of an exchange (http.py) that has to do with its request."""

    # class attributes hold the defaults, as most exchanges set only a few of them
    phase = WAITING
    received = False  # the application has received the whole request body
    versions: dict[str, str]  # the scope's "asgi": this exchange's own if there is a request body, else a shared dict
    _told = False  # the application knows that its client is gone
    _task: Task | None = None  # the connection's, once it waits for this exchange
    _reader: Task | None = None  # reads the request body, then watches for the client to leave
    _wanted = False  # the application waits for a piece of the request body, or for the client to leave
    _piece = b""  # of the request body: arrived, and not received by the application
    _changed: News | None = None

    def __init__(self, host: Host, request: Request) -> None:
        self.host = host
        self.request = request

    async def receive(self) -> Message:
        """ASGI's receive: the request body piece by piece. After it comes http.disconnect, once the response is
        complete, or its body is not sent, or the client is gone.
        """
        if not self.received and self.phase in OPEN:
            if self.request.body.size == 0:
                self.received = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return await self._receive_piece()
        while self.phase in OPEN:
            self._want()
            await self._news()
        self._told = True
        return {"type": "http.disconnect"}

    async def _receive_piece(self) -> Message:
        body = self.request.body
        piece, self._piece = self._piece, b""
        if not piece:
            try:
                piece = body.arrived()
            except ProtocolError as error:
                self._lost(error)
                return await self.receive()
        while not piece and not body.ended:
            self._want()
            await self._news()
            if self.phase not in OPEN:
                return await self.receive()
            piece, self._piece = self._piece, b""
        if self.received:  # another task of the application has received the end meanwhile
            return await self.receive()
        self.received = body.ended
        self._wanted = False
        if self.received:
            self.versions["spec_version"] = "2.3"
        if body.ended and self.phase is STREAMING:
            self._read_on()
        return {"type": "http.request", "body": piece, "more_body": not self.received}

    def _enter(self, phase: Phase) -> None:
        """Go on to `phase`, and wake both sides."""
        self.phase = phase
        if self._task is not None:
            self._task.wake()
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _news(self) -> None:
        """Wait, in the application, until the connection's side has done something."""
        if self._changed is None:
            self._changed = News()
        await self._changed.next()

    def _want(self) -> None:
        self._wanted = True
        self._read_on()

    def _read_on(self) -> None:
        if self._reader is None:
            self._reader = self.host.loop.spawn(self._read(), "reading a request body")
        self._reader.wake()

    async def _read(self) -> None:
        """A task of our loop: read the request body, one piece whenever the application wants one. After the body, wait
        until the client leaves, if the application receives or streams.
        """
        body = self.request.body
        try:
            while not body.ended:
                if self._wanted:
                    self._wanted = False
                    piece = await body.piece()
                    self._piece += piece  # not `+= await`: the application may have received the old value meanwhile
                    self._tell()
                elif self.phase is STREAMING:
                    await self._look_for_end()
                else:
                    await PARKED
            while self.phase is not STREAMING and not (self._wanted and self.received):
                await PARKED
            await body.hangup()
            raise Disconnected("the client has hung up")
        except (ProtocolError, Disconnected) as error:
            self._reader = None
            self._lost(error)

    async def _look_for_end(self) -> None:
        """Wait, for `abandoned_timeout` at the most, until the application wants more of the request body.

        Raises Disconnected if the client has left by then. It is noticed no sooner, as reading is the only way to see
        the end of a stream.
        """
        try:
            with self.host.loop.within(self.host.abandoned_timeout):
                await PARKED
        except TimedOut:
            if self.request.body.client_left:
                raise Disconnected("the client has hung up") from None

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _lost(self, error: ProtocolError | Disconnected) -> None:
        """The client has left, or has broken the protocol."""
        raise NotImplementedError
