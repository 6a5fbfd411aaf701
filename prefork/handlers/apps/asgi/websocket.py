"""WebSockets of an ASGI application: its `receive` and `send`, and the conversation that is made of its messages.

Owns what the application's coroutine, a task of asyncio, and the connection's, a task of our loop, hand to each other;
asgi/http.py does the same for requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from websockets.frames import Close

from prefork.errors import ApplicationError, ClientGone, Disconnected, ServerLeaving
from prefork.handlers.apps.asgi.messages import News, ended_by, is_hangup, to_bytes, to_fields
from prefork.handlers.apps.asgi.request_side import Host
from prefork.http.message import Fields, Request, Response, plain
from prefork.http.websocket.handshake import Handshake
from prefork.http.websocket.memory import Memory
from prefork.http.websocket.protocol import ABNORMAL, RESTART, WebSocket
from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.task import PARKED, Task
from prefork.settings.schema import Websocket

Message = dict[str, Any]
VERSIONS = {"version": "3.0", "spec_version": "2.4"}  # 2.4: send raises OSError once the client is gone
DENIAL = 64 * 1024 * 1024  # bytes of a response that refuses a handshake, at most: it is kept until it is complete


class Phase(Enum):
    """How far the application is."""

    CONNECTING = auto()  # it must accept or refuse
    DENYING = auto()  # it has begun a response of its own, which refuses
    OPEN = auto()
    CLOSED = auto()  # it has closed the WebSocket, or refused the handshake
    GONE = auto()  # the client or the server has ended the WebSocket


class Session:
    """One handshake and, once the application accepts, its conversation."""

    def __init__(self, host: Host, request: Request, settings: Websocket, send_timeout: float, memory: Memory) -> None:
        """Raises BadRequest where the client's handshake is malformed."""
        self.host = host
        self.request = request
        self.phase = Phase.CONNECTING
        self.handshake = Handshake(request, settings.compression)
        self._socket = WebSocket(host.loop, settings, send_timeout, self.handshake.extensions, memory)
        self._socket.changed = self._look
        self._response: Response | None = None
        self._error: BaseException | None = None  # the connection's task must raise it
        self._over = False
        self._ended = False  # the server has called `end`
        self._greeted = False  # the application has received websocket.connect; some accept before they have
        self._status = 0  # of a response of the application's own
        self._fields: Fields = ()
        self._body = bytearray()
        self._task: Task | None = None  # the connection's
        self.task: asyncio.Task[None] | None = None  # the application's: asyncio itself keeps weak references only
        self._changed = News()

    def scope(self, http: Message) -> Message:
        """The scope of type "websocket", made of `http`, the scope of its handshake, which is changed."""
        del http["method"]
        scheme = "wss" if http["scheme"] == "https" else "ws"
        extensions: Message = {"websocket.http.response": {}}
        subprotocols = self.handshake.subprotocols
        http |= {"type": "websocket", "asgi": VERSIONS, "scheme": scheme}
        return {**http, "subprotocols": subprotocols, "extensions": extensions}

    async def live(self, application: Callable[..., Awaitable[None]], scope: Message) -> None:
        """The asyncio task of the application, from its beginning to its end."""
        self.host.under_way.add(self)
        try:
            await application(scope, self.receive, self.send)
            if forks.forked:
                forks.leave()
            if self._response is None and self.phase is not Phase.GONE:
                raise ApplicationError("the application has returned, and neither accepted nor refused a WebSocket")
            self._socket.close()
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            self._failed(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._over = True
            self._socket.forget()
            self._wake()
            self.host.ended(self)

    def end(self) -> None:
        """The server does not wait any longer: close the conversation. At the second call, or where no conversation is
        open, cancel the application.
        """
        if self.phase is Phase.OPEN and not self._ended:
            self._socket.close(1012, RESTART)
        elif self.task is not None:
            self.task.cancel()
        self._ended = True

    # ---- the connection's side: a task of our loop

    async def begun(self) -> Response:
        """Wait until there is an answer to the handshake. Raises any Exception of the application (ApplicationError in
        the place of other ones), Disconnected if the client leaves before, ServerLeaving after `end`.
        """
        self._task = self.host.loop.current
        watching = None
        if self._response is None and self._error is None:
            watching = self.host.loop.spawn(self._watch(), "watching for a client's end")
        try:
            while self._response is None:
                if self._error is not None:
                    raise self._error
                await PARKED
            return self._response
        except BaseException:
            self._lose()
            raise
        finally:
            self._task = None
            if watching is not None:
                watching.cancel()

    async def _watch(self) -> None:
        await self.request.body.hangup()
        self._error = Disconnected("the client has hung up before its WebSocket was accepted")
        self._wake()

    def _wake(self) -> None:
        if self._task is not None:
            self._task.wake()

    def _lose(self) -> None:
        self.phase = Phase.GONE
        self._socket.closed = self._socket.closed or ABNORMAL
        self._changed.set()

    def _look(self) -> None:
        """Called when the conversation has changed: wake the application, and note whether the peer has closed it."""
        if self._socket.closed is not None and self.phase is Phase.OPEN:
            self.phase = Phase.GONE
        self._changed.set()

    # ---- the application's side: asyncio

    async def receive(self) -> Message:
        """ASGI's receive: websocket.connect, then the client's messages, then websocket.disconnect each time."""
        if not self._greeted:
            self._greeted = True
            return {"type": "websocket.connect"}
        while True:
            message = self._socket.take()
            if message is not None:
                text, data = (message, None) if isinstance(message, str) else (None, message)
                return {"type": "websocket.receive", "text": text, "bytes": data}
            closed = self._socket.closed
            if closed is not None:
                return {"type": "websocket.disconnect", "code": int(closed.code), "reason": closed.reason}
            await self._changed.next()

    async def send(self, message: Message) -> None:
        """ASGI's send. Raises RuntimeError for a message that may not come now, or is malformed; ValueError for an
        accept that the handshake does not allow; ClientGone, an OSError, once the client is gone.
        """
        kind, phase = message["type"], self.phase
        if kind == "websocket.send" and phase is Phase.OPEN:
            self._socket.put(_content(message))
            while self._socket.congested:
                await self._changed.next()
        elif phase is Phase.GONE:
            raise ClientGone("the client is gone")
        elif kind == "websocket.close" and phase is Phase.OPEN:
            self.phase = Phase.CLOSED
            code = message.get("code")
            self._socket.close(1000 if code is None else code, message.get("reason") or "")
        elif kind == "websocket.accept" and phase is Phase.CONNECTING:
            fields = to_fields(tuple(message.get("headers") or ()))
            self._answer(self.handshake.response(self._socket, message.get("subprotocol") or "", fields), Phase.OPEN)
        elif kind == "websocket.close" and phase is Phase.CONNECTING:
            self._refuse(plain(403))
        elif kind == "websocket.http.response.start" and phase is Phase.CONNECTING:
            self._status, self._fields = message["status"], to_fields(tuple(message.get("headers") or ()))
            self.phase = Phase.DENYING
        elif kind == "websocket.http.response.body" and phase is Phase.DENYING:
            self._body += to_bytes(message.get("body", b""))
            if len(self._body) > DENIAL:
                raise RuntimeError(f"a response beyond {DENIAL} bytes in place of a WebSocket")
            if not message.get("more_body"):
                self._refuse(Response(self._status, self._fields, bytes(self._body)))
        else:
            raise RuntimeError(f"an unexpected ASGI message: {kind!r}, the WebSocket being {phase.name}")

    def _answer(self, response: Response, phase: Phase) -> None:
        self._response = response
        self.phase = phase
        self._wake()

    def _refuse(self, response: Response) -> None:
        self._socket.closed = Close(1006, "")
        self._answer(response, Phase.CLOSED)

    def _failed(self, error: BaseException) -> None:
        """The application has raised `error`: close the conversation (1011), or have the connection answer the
        handshake with an error. It is logged, unless it only says that the client is gone.
        """
        asked = f"{self.request.method} {self.request.target}"
        if self._response is None and self.phase is not Phase.GONE:
            self._error = (
                ServerLeaving("the server leaves") if self._ended else ended_by(error)
            )  # which the connection logs
        elif (self.phase is Phase.GONE or self._ended) and (is_hangup(error) or self._is_farewell(error)):
            pass
        else:
            log.error("%s failed: %r", asked, error, exc_info=error)
        if self._response is not None:
            self._socket.close(1011, "")

    def _is_farewell(self, error: BaseException) -> bool:
        """Whether `error` only repeats the websocket.disconnect that the application has received. Starlette's
        WebSocketDisconnect does.
        """
        closed = self._socket.closed
        return closed is not None and getattr(error, "code", None) == closed.code


def _content(message: Message) -> str | bytes:
    """The text or bytes of a websocket.send. Raises RuntimeError where it has neither."""
    text, data = message.get("text"), message.get("bytes")
    if isinstance(text, str):
        return text
    if data is None:
        raise RuntimeError("a websocket.send has neither text nor bytes")
    return to_bytes(data)
