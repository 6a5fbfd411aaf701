"""Clients of ASGI applications that leave: the application hears of it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from prefork.errors import ClientGone
from prefork.handlers.apps.asgi.messages import is_hangup
from tests.handlers.apps.asgi.exchange import START, STAYS, answer, call, meet, whole_body
from tests.handlers.exchange import parse, request

PART = {"type": "http.response.body", "body": b"part", "more_body": True}
FOREVER = 3600


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(20 << 20)
    return path


def test_client_that_leaves_in_mid_file_ends_the_application(big: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0.01)  # the head leaves by itself
        await send({"type": "http.response.pathsend", "path": str(big)})

    meet(application, request(), hang_up_after=100_000)
    assert not _is_open(big)
    assert caplog.text == ""


def test_send_that_waits_raises_when_the_client_leaves() -> None:
    raised = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send({**PART, "body": bytes(20 << 20)})
        except OSError as error:
            raised.append(error)

    meet(application, request(), hang_up_after=100_000)
    assert [type(error) for error in raised] == [ClientGone]


def test_wrong_status_opens_no_file(big: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": "200"})
        await send({"type": "http.response.pathsend", "path": str(big)})

    assert call(application).status == 500
    assert "the status of a response is '200'" in caplog.text
    assert not _is_open(big)


def test_application_that_only_the_server_knows_of_is_not_collected() -> None:
    waiting: list[weakref.ref[asyncio.Future[bytes]]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        if scope["path"] == "/wait":
            waiting.append(weakref.ref(future))
            return await answer(send, await future)
        del future
        while not waiting:
            await asyncio.sleep(0)
        gc.collect()
        there = waiting[0]()
        if there is not None:
            there.set_result(b"alive")
        return await answer(send)

    assert parse(meet(application, request("/wait"), request("/collect"))[0]).body == b"alive"


def test_broken_body_is_a_disconnect_while_the_response_streams() -> None:
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(PART)
        await asyncio.sleep(0.01)  # the response is on its way
        heard.append(await receive())
        await asyncio.sleep(0)
        heard.append("cleaned up")

    meet(application, request("/", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n")
    assert heard == [{"type": "http.disconnect"}, "cleaned up"]


def test_client_that_leaves_in_mid_body_is_a_disconnect_while_the_response_streams() -> None:
    heard: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(PART)
        while (message := await receive())["type"] == "http.request":
            await send({**PART, "body": message["body"]})
        await asyncio.sleep(0)
        heard.append(message)

    meet(application, request("/", "Content-Length: 10", method="POST") + b"half")
    assert heard == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("body", [b"", b"x", bytes(300_000)])
def test_stream_that_has_nothing_to_send_ends_when_its_client_leaves(body: bytes) -> None:
    story: list[str] = []
    left = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await send(START)
        await send(PART)
        try:
            await left.wait()
            await send(PART)
        except BaseException as error:
            story.append(type(error).__name__)
            raise

    async def observer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            return await application(scope, receive, send)
        await asyncio.sleep(0.1)
        left.set()
        return await answer(send)

    stream = request("/stream", body=body, method="POST" if body else "GET")
    meet(observer, stream, request("/other"), hang_up_after=1)
    assert story == ["ClientGone"]


def test_starlette_ends_a_silent_stream_and_does_its_background_work_whatever_the_request_was() -> None:
    for method, body in (("GET", b""), ("POST", b"x"), ("POST", bytes(300_000))):
        story: list[str] = []
        meet(silent_stream(story, reads=True), request(body=body, method=method), hang_up_after=1)
        assert story == ["cancelled", "recorded"], (method, len(body))


def test_stream_that_hears_nothing_of_its_clients_end_is_cancelled_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it has left the request body alone, Starlette must not receive beside it, and relies on send."""
    story: list[str] = []
    bounds = {"abandoned_timeout": 0.05, "sweep": 0.005}
    meet(silent_stream(story, reads=False), request(body=b"x", method="POST"), hang_up_after=1, **bounds)
    assert story == ["cancelled"]
    assert caplog.text == ""


def test_application_that_has_heard_of_its_clients_end_goes_on_for_as_long_as_it_likes() -> None:
    story: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with suppress(ClientGone):
            while True:
                await send(PART)
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        story.append("recorded")

    meet(application, request(body=b"x", method="POST"), hang_up_after=1, abandoned_timeout=0.05)
    assert story == ["recorded"]


def test_starlette_streams_a_body_back_that_it_reads_meanwhile() -> None:
    async def mirror(asked: Request) -> StreamingResponse:
        return StreamingResponse(asked.stream())

    application = Starlette(routes=[Route("/", mirror, methods=["POST"])])
    for body in (b"x", bytes(300_000)):
        asked = request("/", "Connection: close", body=body, method="POST")
        (raw,) = meet(application, asked, hang_up_after=STAYS)
        assert parse(raw).body == body


def silent_stream(story: list[str], reads: bool) -> Starlette:
    """Streams one piece, then has nothing to send, for ever; `story` is what becomes of it."""

    async def generate() -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            story.append("cancelled")
            raise

    async def respond(asked: Request) -> StreamingResponse:
        if reads:
            await asked.body()
        return StreamingResponse(generate(), background=BackgroundTask(story.append, "recorded"))

    return Starlette(routes=[Route("/", respond, methods=["GET", "POST"])])


def test_application_that_receives_while_it_streams_is_told_and_not_cancelled() -> None:
    story: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        await send(START)
        await send(PART)
        story.append(await receive())
        await asyncio.sleep(0.01)
        story.append("cleaned up")

    meet(application, request(body=b"x", method="POST"), hang_up_after=1)
    assert story == [{"type": "http.disconnect"}, "cleaned up"]


def test_response_that_is_complete_goes_out_whole_to_a_client_that_half_closes() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(PART)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": bytes(8 << 20)})

    (raw,) = meet(application, request(), then=b"\r\n")  # which it does once it has a part
    assert len(parse(raw).body) == len(b"part") + (8 << 20)


def test_group_of_hangups_is_a_hangup() -> None:
    gone, cancelled = ClientGone("the client is gone"), asyncio.CancelledError()
    assert is_hangup(ExceptionGroup("a task group", [gone, ExceptionGroup("another", [gone])]))
    assert is_hangup(BaseExceptionGroup("a task group", [gone, cancelled]))
    assert not is_hangup(ExceptionGroup("a task group", [gone, ValueError("on purpose")]))


def _is_open(path: Path) -> bool:
    """Whether this process has a descriptor of the file."""
    found = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return any(os.path.exists(each) and os.readlink(each) == str(path) for each in found)
