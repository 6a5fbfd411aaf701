"""A conversation between a raw client and a real Connection, over loopback, in one loop and one thread.

So an application under test is a function in the test itself, and by the time the answer is there, all is done.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from prefork.errors import Disconnected, TimedOut
from prefork.handlers.apps.wsgi.application import Wsgi
from prefork.handlers.apps.wsgi.call import BOUNDS, Bounds
from prefork.handlers.apps.wsgi.input import Unbuffered
from prefork.handlers.build import Host, Snapshot, build
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client, Handler, Request, Response
from prefork.http.registry import Server
from prefork.net.stream import Stream
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.threads import ThreadPool
from prefork.settings.schema import Http, Route, Workers
from prefork.shared.counters import WIDTH
from tests.handlers.files.file_trees import file_cache
from tests.runtime.thread_pools import started

CLIENT = Client("192.0.2.7", 50000, "http", "127.0.0.1", "8000")
PATIENCE = 10.0  # seconds that the client waits for the server


class Answer(NamedTuple):
    """A response; `rest` is what follows it. A body that ends too early raises http.client.IncompleteRead."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes
    rest: bytes


def exchange(handler: Handler, sent: bytes, **how: Any) -> bytes:
    """All that the server answers to the bytes `sent`; see `meet`."""
    return meet(handler, sent, **how)[0]


@dataclass
class Manner:
    """How a client behaves: it half-closes after what it sends, unless it is to `hang_up_after` that many bytes read.

    `then` it sends only after the first answer; where `resets`, the connection is to end in a reset. Where it is not to
    be `half_closed`, the client has to have said that nothing follows.
    """

    hang_up_after: int | None = None
    then: bytes = b""
    resets: bool = False
    half_closed: bool = True


def meet(
    handler: Handler,
    *sent: bytes,
    client: Client = CLIENT,
    http: Http | None = None,
    board: memoryview | None = None,
    **manner: Any,
) -> list[bytes]:
    """What the server answers to each of several clients at once, who send these bytes; for `manner` see Manner."""
    pool = handler.pool if isinstance(handler, _Hosted) else ThreadPool(Loop(make_poller("auto")), 1)
    loop = pool.loop
    board = board or memoryview(bytearray(8 * WIDTH)).cast("Q")
    server = Server(loop, http or Http(), lambda request: handler, board, None)
    talks = [_Talk(loop, server, data, client, Manner(**manner)) for data in sent]
    loop.spawn(_stop_after(loop, talks), "stopping")
    with started(pool):
        try:
            pool.run(lambda failure: None)
        finally:
            loop.close()
            for talk in talks:
                talk.close()
    for talk in talks:
        if talk.failure is not None:
            raise talk.failure
    return [bytes(talk.received) for talk in talks]


async def _stop_after(loop: Loop, talks: list[_Talk]) -> None:
    while any(task in loop.tasks for talk in talks for task in talk.tasks):
        await loop.sleep(0.001)
    loop.stop()


class _Talk:
    """One client's side, and the server's beside it; `failure` is what went wrong at the client's."""

    def __init__(self, loop: Loop, server: Server, sent: bytes, client: Client, manner: Manner) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.theirs = socket.create_connection(listener.getsockname())
            self.ours, _ = listener.accept()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.received = bytearray()
        self.failure: BaseException | None = AssertionError("the client has not come to its end")
        self.tasks = [
            loop.spawn(Connection(Http1(server), Stream(loop, self.ours), client).serve(), "the server's side"),
            loop.spawn(self._ask(Stream(loop, self.theirs), sent, manner), "the client's side"),
        ]

    async def _ask(self, stream: Stream, sent: bytes, manner: Manner) -> None:
        try:
            await stream.write(sent, PATIENCE)
            if manner.then:
                self.received.extend(await stream.read(PATIENCE))
                await stream.write(manner.then, PATIENCE)
            if manner.hang_up_after is None and manner.half_closed:
                self.theirs.shutdown(socket.SHUT_WR)
            while manner.hang_up_after is None or len(self.received) < manner.hang_up_after:
                piece = await stream.read(PATIENCE)
                if not piece:
                    break
                self.received.extend(piece)
            self.failure = AssertionError("the connection was not reset") if manner.resets else None
        except (OSError, Disconnected, TimedOut) as error:
            self.failure = None if manner.resets and isinstance(error, Disconnected) else error
        finally:
            stream.close()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class _Wire(io.BytesIO):
    """What http.client takes for a socket and its file; outlives the response that is read from it."""

    def makefile(self, mode: str) -> _Wire:
        return self

    def close(self) -> None:
        pass


def parse(data: bytes, method: str = "GET") -> Answer:
    """The first response in `data`."""
    wire = _Wire(data)
    response = http.client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]
    response.begin()
    body = response.read()
    return Answer(response.status, response.reason, response.headers, body, wire.read())


def request(
    target: str = "/", *fields: str, method: str = "GET", version: str = "HTTP/1.1", body: bytes = b""
) -> bytes:
    """A request of example.com; with a `body` it gets a Content-Length, unless the fields say how it is framed."""
    lines = [f"{method} {target} {version}", *fields]
    if not any(field.lower().startswith("host:") for field in fields):
        lines.insert(1, "Host: example.com")
    if body and not any("encoding" in field.lower() for field in fields):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _Hosted:
    """A Handler with the pool that it calls applications by, good for one `meet`."""

    def __init__(self, pool: ThreadPool, find: Callable[[Request], Handler]) -> None:
        self.pool = pool
        self.find = find

    async def __call__(self, request: Request) -> Response:
        return await self.find(request)(request)


def wsgi(
    application: Callable[..., Any],
    mount: str = "",
    threads: int = 2,
    pinned: bool = False,
    buffered: bool = True,
    bounds: Bounds = BOUNDS,
) -> Handler:
    pool = ThreadPool(Loop(make_poller("auto")), threads)
    pool.pinned = pinned
    handle: Handler = Wsgi(application, mount, pool, multiprocess=True, bounds=bounds).handle
    if not buffered:
        handle = Unbuffered(handle, pool).handle
    return _Hosted(pool, lambda request: handle)


def hosted(make: Callable[[ThreadPool], Handler]) -> Handler:
    """The thing that `make` makes for a pool."""
    pool = ThreadPool(Loop(make_poller("auto")), 2)
    handle = make(pool)
    return _Hosted(pool, lambda request: handle)


def routed(routes: Sequence[Route], snapshot: Snapshot = dict, **how: Any) -> Handler:
    """What `build` makes of the routes; `how` are attributes of its Host."""
    pool = ThreadPool(Loop(make_poller("auto")), 2)
    return _Hosted(pool, build(routes, Host(pool, Workers(), snapshot, os.getcwd(), file_cache(), **how)).find)


def call(application: Callable[..., Any], *fields: str, mount: str = "", **how: Any) -> Answer:
    """The answer of a WSGI application to `request(*fields, **how)`; the first positional argument is the target."""
    return parse(exchange(wsgi(application, mount), request(*fields, **how)), how.get("method", "GET"))


def environ(*fields: str, mount: str = "", client: Client = CLIENT, **how: Any) -> dict[str, Any]:
    """The environ that an application gets to see; `wsgi.input` has been read, and is there as "body"."""
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.update(environ, body=environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b"seen"]

    answer = parse(exchange(wsgi(application, mount), request(*fields, **how), client=client), how.get("method", "GET"))
    assert answer.status == 200, answer
    return seen


def reading(read: Callable[[Any], Any]) -> Callable[..., Any]:
    """An application that answers with the repr of what `read` makes of wsgi.input."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        result = read(environ["wsgi.input"])
        start_response("200 OK", [])
        return [repr(result).encode()]

    return application


def assert_500(application: Callable[..., Any], caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The client gets a 500 and can go on; the log has one record with the words, the request and the stack."""
    caplog.clear()
    answer = parse(exchange(wsgi(application), request("/wrong") + request("/again")))
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n"), answer
    assert answer.headers["Connection"] == "keep-alive", answer
    assert parse(answer.rest).status == 500, answer
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"], caplog.text
    record = caplog.records[0]
    assert record.exc_info
    for word in ("GET /wrong failed", *words):
        assert word in record.getMessage(), record.getMessage()
