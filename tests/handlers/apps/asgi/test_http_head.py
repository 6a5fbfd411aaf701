"""When the head of an ASGI application's response leaves: with the body where that is there, else at once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from prefork.handlers.apps.asgi.application import Asgi
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.registry import Server
from prefork.net.stream import Stream
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Http
from prefork.shared.counters import WIDTH
from tests.handlers.apps.asgi.exchange import START, STAYS, Application, call, meet
from tests.handlers.exchange import CLIENT, PATIENCE, parse, request

BODY = {"type": "http.response.body"}


def reads(application: Application, asked: bytes, *wanted: bytes) -> list[bytes]:
    """What each `recv` of a client gets that asks once and waits for the `wanted` endings, one after another; after
    each, the application's `asyncio.Event` in `scope["state"]["go"]` is set.
    """
    loop = Loop(make_poller())
    asgi = Asgi(loop)
    go = asyncio.Event()

    async def with_event(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["go"] = go
        await application(scope, receive, send)

    handler = asgi.handler(with_event, "")
    server = Server(loop, Http(), lambda _: handler, memoryview(bytearray(8 * WIDTH)).cast("Q"), None)
    theirs, ours = socket.socketpair()
    got: list[bytes] = []

    async def ask() -> None:
        stream = Stream(loop, theirs)
        await stream.write(asked, PATIENCE)
        for ending in wanted:
            piece = await stream.read(PATIENCE)
            got.append(piece)
            while not piece.endswith(ending):
                piece += await stream.read(PATIENCE)
            go.set()
        stream.close()
        with loop.within(PATIENCE):
            await server.fewer(1)
            await asgi.finished()
        loop.stop()

    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        loop.spawn(Connection(Http1(server), Stream(loop, ours), CLIENT).serve(), "the server's side")
        loop.spawn(ask(), "the client's side")
        asgi.run()
        assert not asgi.under_way
        assert not server.connections
    finally:
        asgi.close()
        loop.close()
        ours.close()
        theirs.close()
    return got


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("length", [None, b"4"])
def test_head_does_not_wait_for_a_body_that_is_not_there(waits: bool, length: bytes | None) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if waits:
            await asyncio.sleep(0)
        await send({**START, "headers": [] if length is None else [(b"content-length", length)]})
        await scope["state"]["go"].wait()
        await send({**BODY, "body": b"body"})

    head, body = reads(application, request(), b"\r\n\r\n", b"body" if length else b"0\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.startswith(b"body" if length else b"4\r\nbody\r\n")


def test_empty_first_piece_does_not_hold_the_head_back() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "more_body": True})
        await scope["state"]["go"].wait()
        await send({**BODY, "body": b"body"})

    assert len(reads(application, request(), b"\r\n\r\n", b"0\r\n\r\n")) == 2


@pytest.mark.parametrize("waits", [False, True])
def test_head_and_a_body_that_is_there_leave_as_one(waits: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if waits:
            await asyncio.sleep(0)
        await send(START)
        await send({**BODY, "body": b"body"})

    (whole,) = reads(application, request(), b"body")
    assert whole.endswith(b"\r\n\r\nbody")


def test_head_and_the_first_of_many_pieces_leave_as_one() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "body": b"one", "more_body": True})
        await scope["state"]["go"].wait()
        await send({**BODY, "body": b"two"})

    first, second = reads(application, request(), b"one\r\n", b"0\r\n\r\n")
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert second.startswith(b"3\r\ntwo\r\n")


def test_head_alone_is_all_that_a_head_request_gets() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await scope["state"]["go"].wait()
        await send({**BODY, "body": b"body"})

    (head,) = reads(application, request(method="HEAD"), b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")


def test_application_that_fails_behind_a_head_that_is_out_cuts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0.001)
        raise ValueError("on purpose")

    raw = meet(application, request("/", "Connection: close"), hang_up_after=STAYS)[0]
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert not raw.endswith(b"0\r\n\r\n")
    assert "GET / failed" in caplog.text


def test_wrong_status_behind_a_wait_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await send({**START, "status": "200"})
        await asyncio.sleep(0.001)

    assert call(application).status == 500
    assert "the status of a response is '200'" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
def test_a_status_beyond_599_is_passed_on(waits: bool) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if waits:
            await asyncio.sleep(0)
        await send({**START, "status": 999})
        await send({**BODY, "body": b"body"})

    found = call(application)
    assert (found.status, found.body) == (999, b"body")


def test_next_request_is_answered_behind_a_prompt_head() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0.001)
        await send({**BODY, "body": scope["path"].encode()})

    asked = request("/one") + request("/two", "Connection: close")
    first = parse(meet(application, asked, hang_up_after=STAYS)[0])
    assert (first.body, parse(first.rest).body) == (b"/one", b"/two")
