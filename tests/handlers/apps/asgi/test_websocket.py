"""The ASGI scope "websocket": applications in this thread, and independent clients in others."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from prefork.handlers.apps.asgi.application import WEBSOCKET, Asgi
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client
from prefork.http.registry import Server
from prefork.net.stream import Stream
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Http, Websocket
from prefork.shared.counters import WIDTH
from tests.e2e.asgi_validator import Validator

Application = Callable[..., Any]
PATIENCE = 20.0


def talk(
    application: Application,
    client: Callable[[str], Any],
    drain: threading.Event | None = None,
    settings: Websocket = WEBSOCKET,
) -> Any:
    """What `client(url)` returns, run in a thread while `application` is served in this one."""
    loop = Loop(make_poller())
    asgi = Asgi(loop, settings)
    board = memoryview(bytearray(WIDTH * 8)).cast("Q")
    validator = Validator(application)
    handler = asgi.handler(validator, "")
    server = Server(loop, Http(), lambda _: handler, board, None)
    protocol = Http1(server)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.setblocking(False)
        port = listener.getsockname()[1]

        async def accept() -> None:
            while True:
                await loop.readable(listener.fileno())
                connected, (host, number) = listener.accept()
                connected.setblocking(False)
                who = Client(host, number, "http", "127.0.0.1", str(port))
                loop.spawn(Connection(protocol, Stream(loop, connected, 240), who).serve(), "a connection")

        result = pool.submit(client, f"ws://127.0.0.1:{port}/chat?a=b")

        async def end() -> None:
            with loop.within(PATIENCE):
                while not result.done():
                    if drain is not None and drain.is_set() and not server.draining:
                        server.drain(0.2)
                    await loop.sleep(0.005)
                await server.fewer(1)
                await asgi.finished()
            loop.stop()

        accepting, _ = loop.spawn(accept(), "accepting"), loop.spawn(end(), "waiting for the client")
        try:
            asgi.run()
            assert not asgi.under_way
            assert not server.connections
        finally:
            accepting.cancel()
            asgi.close()
            loop.close()
        assert not validator.complaints
        return result.result()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0] if scope["subprotocols"] else None})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})


def test_text_and_bytes_come_back() -> None:
    def client(url: str) -> Any:
        with connect(url, subprotocols=["one"], max_size=None) as ws:  # type: ignore[list-item]
            for message in ("grüße", b"\0\xff", "x" * 1_000_000, ""):
                ws.send(message)
                assert ws.recv() == message
            ws.send(["in", "frag", "ments"])
            assert ws.recv() == "infragments"
            assert ws.ping().wait(10)
            return ws.subprotocol

    assert talk(echo, client) == "one"


def test_messages_that_an_application_has_not_received_are_held_no_longer_than_it_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.sleep(0.03)

    def client(url: str) -> None:
        for _ in range(10):
            with suppress(ConnectionClosed), connect(url) as ws:
                ws.send(bytes(60_000))
                ws.recv()

    talk(deaf, client, settings=Websocket(max_message=100_000, max_buffered=250_000))
    assert "websocket.max_buffered" not in caplog.text


def test_aiohttp_speaks_with_it_compressed() -> None:
    async def converse(url: str) -> str:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as ws:
            assert ws.compress
            await ws.send_str("hello " * 1000)
            message = await ws.receive()
            await ws.close()
            return str(message.data)

    assert talk(echo, lambda url: asyncio.run(converse(url))) == "hello " * 1000


def test_the_scope_is_that_of_the_handshake() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        seen["then"] = await receive()

    def client(url: str) -> Any:
        with connect(url) as ws:
            assert ws.response is not None
            assert ws.response.headers["X-Own"] == "1"
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv()
        return closed.value.rcvd

    closed = talk(application, client)
    assert (closed.code, closed.reason) == (4001, "enough")
    assert seen["type"] == "websocket"
    assert seen["scheme"] == "ws"
    assert (seen["path"], seen["query_string"]) == ("/chat", b"a=b")
    assert seen["asgi"]["spec_version"] >= "2.4"
    assert "method" not in seen
    assert seen["then"] == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}


def test_the_application_hears_how_the_client_left() -> None:
    heard: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        heard.append(await receive())
        with pytest.raises(OSError, match="gone"):
            await send({"type": "websocket.send", "text": "too late"})

    def client(url: str) -> None:
        with connect(url) as ws:
            ws.close(4002, "bye")

    talk(application, client)
    assert heard == [{"type": "websocket.disconnect", "code": 4002, "reason": "bye"}]


def test_a_subprotocol_that_was_not_offered_raises_in_the_application() -> None:
    raised: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(ValueError, match="offers: one, two") as caught:
            await send({"type": "websocket.accept", "subprotocol": "three"})
        raised.append(str(caught.value))
        await send({"type": "websocket.accept", "subprotocol": "two"})

    def client(url: str) -> Any:
        with connect(url, subprotocols=["one", "two"]) as ws:  # type: ignore[list-item]
            return ws.subprotocol

    assert talk(application, client) == "two"
    assert len(raised) == 1


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def deny(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-own", b"1")]})
    await send({"type": "websocket.http.response.body", "body": b"tea", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"pot"})


async def refuse_unheard(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})
    assert (await receive())["type"] == "websocket.connect"
    assert (await receive())["type"] == "websocket.disconnect"


async def deny_unheard(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"teapot"})


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("on purpose")


async def forget(scope: Any, receive: Any, send: Any) -> None:
    await receive()


@pytest.mark.parametrize(
    ("application", "status", "body"),
    [
        (refuse, 403, b"403 Forbidden\n"),
        (deny, 418, b"teapot"),
        (refuse_unheard, 403, b"403 Forbidden\n"),  # as Starlette does where no route matches
        (deny_unheard, 418, b"teapot"),
        (fail, 500, None),
        (forget, 500, None),
    ],
)
def test_an_application_can_refuse(application: Application, status: int, body: bytes | None) -> None:
    def client(url: str) -> Any:
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        return refused.value.response

    response = talk(application, client)
    assert response.status_code == status
    assert body is None or response.body == body


def test_an_application_that_fails_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        raise ZeroDivisionError("on purpose")

    def client(url: str) -> Any:
        with connect(url) as ws:
            ws.send("go")
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv()
        return closed.value.rcvd

    assert talk(application, client).code == 1011
    assert "GET /chat?a=b failed: ZeroDivisionError" in caplog.text


def test_a_drain_closes_with_1012() -> None:
    drain = threading.Event()

    def client(url: str) -> Any:
        with connect(url) as ws:
            drain.set()
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv()
        return closed.value.rcvd

    assert talk(echo, client, drain).code == 1012


@pytest.mark.parametrize("size", [65_536, 70_000, 3_000_000])
def test_an_application_that_sends_much_right_after_it_accepts_goes_on(size: int) -> None:
    """What is sent before the 101 is out counts as unsent, and does so no longer than that."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(size)})
        await send({"type": "websocket.send", "text": "second"})
        await send({"type": "websocket.close", "code": 4000})

    def client(url: str) -> Any:
        with connect(url, max_size=None, compression=None) as ws:
            got = [len(ws.recv(timeout=5)), ws.recv(timeout=5)]
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=5)
        assert closed.value.rcvd is not None
        return [*got, closed.value.rcvd.code]

    assert talk(application, client) == [size, "second", 4000]


def test_a_client_that_leaves_before_it_was_accepted_is_told_of() -> None:
    heard: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        heard.append(await receive())

    def client(url: str) -> None:
        with pytest.raises(TimeoutError):
            connect(url, open_timeout=0.1)

    talk(application, client)
    assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]
