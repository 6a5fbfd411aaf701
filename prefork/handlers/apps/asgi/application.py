"""ASGI applications (ASGI 3, https://asgi.readthedocs.io): HTTP requests, WebSockets, and the applications' lifespans.

Clients repeat header blocks and request lines, as in wsgi/application.py. So the parts of the scope that come from a
header block, a request line and a client are prepared once, and kept for as long as these are; a request copies them.
Each call of an application is an asyncio task (asyncio_bridge.py), and its first step is taken at once. So a call that
does not have to wait has its response when `start` returns.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from prefork.bounded import NameTable
from prefork.errors import TimedOut
from prefork.handlers.apps.asgi.http import RequestCycle
from prefork.handlers.apps.asgi.lifespan import Lifespan, take_back
from prefork.handlers.apps.asgi.phases import COMPLETE
from prefork.handlers.apps.withheld import is_withheld
from prefork.http.members import members
from prefork.http.message import Client, Handler, Headers, Request, RequestLine, Response, plain
from prefork.http.websocket.memory import Memory
from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.asyncio_bridge import AsyncioBridge
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.runtime.task import PAUSE
from prefork.settings.schema import Websocket
from prefork.settings.wording import to_install

Message = dict[str, Any]
Scope = dict[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

# Once the client is gone, receive gives http.disconnect and send raises OSError, whichever spec_version is announced.
# Only Starlette and FastAPI look at it, and stream in one of two ways (StreamingResponse). With 2.3, as with uvicorn,
# they call receive beside the generator until they get http.disconnect; then they cancel the generator, and go on to
# the background task. But a piece of the request body that they receive so is lost to a generator that reads the body.
# With 2.4 they rely on send alone, so a generator that has nothing to send would never hear that its client is gone.
# So 2.3 is announced, but 2.4 for as long as the application has not received the whole request body. RequestCycle
# says what follows from that.
VERSIONS = {"version": "3.0", "spec_version": "2.3"}
WITH_BODY = {"version": "3.0", "spec_version": "2.4"}
EXTENSIONS: dict[str, dict[str, Any]] = {"http.response.pathsend": {}, "http.response.trailers": {}}
CLOSING = 0.5  # seconds that tasks which an application has left running have to end, once they are cancelled
TAKING_BACK = 5.0  # seconds that started applications have to shut down where another one cannot start
ENDING = (0.5, 0.25)  # seconds that requests have to end after the first call of `end`, and after the second
ABANDONED_TIMEOUT = 30.0  # seconds that an application may go on with a body that is not sent (HEAD, 304, no client)
WEBSOCKET = Websocket()  # the defaults


class Asgi:
    """The ASGI side of one worker: its asyncio loop, and the applications in it, each with one lifespan at most.

    `under_way` holds the calls that are not done, whether the response is sent or not: each WebSocket's session, and
    each HTTP exchange whose application has had to wait. For `abandoned_timeout` see request_side.py.
    """

    def __init__(
        self,
        loop: Loop,
        websocket: Websocket = WEBSOCKET,
        send_timeout: float = 30.0,
        abandoned_timeout: float = ABANDONED_TIMEOUT,
    ) -> None:
        self.abandoned_timeout = abandoned_timeout
        self.websocket = websocket
        self.send_timeout = send_timeout
        self.memory = Memory(websocket)
        self.bridge = AsyncioBridge(loop)
        self.loop = loop
        self.under_way: set[Any] = set()  # RequestCycles and Sessions
        self._lifespans: dict[Any, Lifespan] = {}  # by the id of the application
        self._last = Condition(loop)  # notified when no call is under way

    def handler(self, application: Application, mount: str, lifespan: bool = True) -> Handler:
        """The Handler for requests to `application` below `mount` ("" or "/prefix").

        Without `lifespan`, these requests get an empty state, and this route starts no lifespan. Another route to the
        same application may.
        """
        if not lifespan:
            return Mounted(self, application, mount, {}).handle
        known = self._lifespans.get(id(application))
        if known is None:
            known = self._lifespans[id(application)] = Lifespan(application)
        return Mounted(self, application, mount, known.state).handle

    def start_up(self) -> None:
        """Start every application's lifespan, in the order of the routes.

        Raises LifespanError for the first that cannot start. Before that, the started ones shut down, or have had
        TAKING_BACK seconds for it.
        """
        self.bridge.keep_policy()
        lifespans = [*self._lifespans.values()]
        try:
            for lifespan in lifespans:
                self.bridge.run_until_complete(lifespan.start_up())
        except Exception:
            self.bridge.run_until_complete(take_back(lifespans, TAKING_BACK))
            raise

    def run(self) -> None:
        """Run our loop and asyncio's; a worker without asyncio calls Loop.run instead."""
        self.bridge.run()

    def running(self) -> Request | None:
        """The request whose call runs at this moment; None where none does, or where that has not waited before. May be
        called in any thread.
        """
        for exchange in tuple(self.under_way):
            task = exchange.task
            if task is not None and inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_RUNNING:
                request: Request = exchange.request
                return request
        return None

    def stacks(self) -> str:
        """The stacks of the asyncio tasks, as text: where each waits. May be called in any thread."""
        return self.bridge.stacks()

    def ended(self, exchange: Any) -> None:
        self.under_way.discard(exchange)
        if not self.under_way:
            self._last.notify_all()

    def close_in_child(self) -> None:
        self.bridge.close_in_child()

    async def finished(self) -> None:
        """Wait, in a task of our loop, until no application call is under way."""
        await self._last.wait_for(lambda: not self.under_way)

    def requests(self) -> list[Request]:
        """The requests of the calls that are not done, whether the response is sent or not."""
        return [exchange.request for exchange in self.under_way]

    async def end(self) -> None:
        """End the calls under way, in a task of our loop: close open WebSockets, and cancel all other calls.

        If calls are left after ENDING[0] seconds, cancel these. A call that is still left after ENDING[1] more seconds
        goes on.
        """
        for seconds in ENDING:
            for exchange in tuple(self.under_way):
                exchange.end()
            with suppress(TimedOut), self.loop.within(seconds):
                await self.finished()
        await PAUSE  # let the connections of the ended calls send their last

    async def shut_down(self, timeout: float) -> None:
        """Shut every lifespan down, and wait for that, in a task of our loop, `timeout` seconds at the most. They shut
        down all at once, since one that hangs must not cost the others their time.
        """
        lifespans = [*reversed(self._lifespans.values())]
        try:
            with self.loop.within(timeout):
                await self.bridge.join(
                    [self.bridge.asyncio.create_task(lifespan.shut_down()) for lifespan in lifespans]
                )
        except TimedOut:
            said = (
                "an application's lifespan has not shut down within %g s (workers.shutdown_timeout), and is cancelled"
            )
            for _ in filter(Lifespan.give_up, lifespans):
                log.warning(said, timeout)

    def close(self) -> None:
        """End asyncio, and cancel all tasks that applications have left running there; they have CLOSING seconds."""
        for lifespan in self._lifespans.values():
            lifespan.give_up()
        self.bridge.close(CLOSING)


class Mounted:
    """An application below one mount; `handle` is the Handler."""

    def __init__(self, asgi: Asgi, application: Application, mount: str, state: dict[str, Any]) -> None:
        self._asgi = asgi
        self._start = asgi.bridge.start
        self._application = application
        self._mount = mount
        self._root = _text(mount)
        self._state = state

    async def handle(self, request: Request) -> Response:
        """The Handler. Raises any exception of the application before its response begins, and ProtocolError and
        Disconnected as the request body does.
        """
        if "upgrade" in request.headers.fields and wants_websocket(request):
            return await self._converse(request)
        exchange = RequestCycle(self._asgi, request)
        scope = self.scope(request)
        exchange.versions = scope["asgi"]
        task = self._start(exchange.live(self._application, scope))
        if exchange.over and exchange.phase is COMPLETE:
            return exchange.response  # type: ignore[return-value]
        if forks.forked:  # the application has forked this process, and awaits something in it
            forks.leave()
        exchange.task = task
        return await exchange.begun()

    async def _converse(self, request: Request) -> Response:
        """The answer to a WebSocket's opening handshake. Raises as `handle` does."""
        try:
            from prefork.handlers.apps.asgi.websocket import Session
            from prefork.http.websocket.handshake import refusal
        except ModuleNotFoundError as error:
            if error.name != "websockets":
                raise
            log.error("a client asks for a WebSocket, but `websockets` is not installed: %s", to_install("websockets"))
            return plain(501)
        refused = refusal(request)
        if refused is not None:
            return refused
        session = Session(self._asgi, request, self._asgi.websocket, self._asgi.send_timeout, self._asgi.memory)
        session.task = self._start(session.live(self._application, session.scope(self.scope(request))))
        if forks.forked:
            forks.leave()
        return await session.begun()

    def scope(self, request: Request) -> Scope:
        """The scope of type "http". The scope itself, `headers`, `state` and `extensions` are the request's own;
        `asgi` is only where there is a request body.
        """
        line, headers, client = request.line, request.headers, request.client
        from_line = line.prepared.get(self)
        if from_line is None:
            from_line = line.prepared[self] = self._line(line)
        fields = headers.prepared.get(Asgi)
        if fields is None:
            fields = headers.prepared[Asgi] = _encoded(headers)
        if client.prepared is None:
            client.prepared = {Asgi: _client(client)}
        scope: Scope = from_line.copy()
        scope["scheme"], scope["client"], scope["server"] = client.prepared[Asgi]
        scope["headers"] = _authoritative(fields, line) if line.authority else fields.copy()
        if request.body.size != 0:
            scope["asgi"] = WITH_BODY.copy()
        scope["state"] = self._state.copy()
        scope["extensions"] = EXTENSIONS.copy()
        return scope

    def _line(self, line: RequestLine) -> Scope:
        # Slashes as they came, except in the part that is root_path: frameworks cut it off letter by letter.
        path = line.path if line.decoded is line.path else self._mount + line.below(self._mount)
        return {
            "type": "http",
            "asgi": VERSIONS,
            "http_version": "1.1" if line.minor else "1.0",
            "method": line.method,
            "path": _text(path),
            "raw_path": line.origin.partition("?")[0].encode("latin-1"),
            "query_string": line.query.encode("latin-1"),
            "root_path": self._root,
        }


def wants_websocket(request: Request) -> bool:
    """Whether a request asks to go on as a WebSocket (RFC 9110 §7.8). If it does not, its Upgrade may be ignored."""
    if not request.line.minor:
        return False  # in HTTP/1.0 an Upgrade must be ignored
    headers = request.headers
    return "websocket" in members(headers.get("upgrade")) and "upgrade" in members(headers.get("connection"))


def _text(path: str) -> str:
    """A latin-1 path, one character a byte, with its bytes decoded as UTF-8."""
    return path.encode("latin-1").decode("utf-8", "replace")


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The request fields, except those that are withheld from applications."""
    try:
        return [(_NAMES[name], value.encode("latin-1")) for name, value in headers.pairs]
    except KeyError:
        return [(_NAMES[name], value.encode("latin-1")) for name, value in headers.pairs if not is_withheld(name)]


def _name(name: str) -> bytes:
    """Raises KeyError for a field that is withheld."""
    if is_withheld(name):
        raise KeyError(name)
    return name.encode("latin-1")


_NAMES = NameTable(_name)


def _authoritative(fields: list[tuple[bytes, bytes]], line: RequestLine) -> list[tuple[bytes, bytes]]:
    """The fields with the target's authority as Host (RFC 9112 §3.2.2)."""
    return [(b"host", line.authority.encode("latin-1")), *(field for field in fields if field[0] != b"host")]


def _client(client: Client) -> tuple[str, tuple[str, int] | None, tuple[str, int | None]]:
    """The scope's scheme, client and server. On a unix socket, the client is None, and the server's name is the path of
    the socket.
    """
    address = (client.address, int(client.port)) if client.address else None
    return client.scheme, address, (client.server_name, int(client.server_port) if client.server_port else None)
