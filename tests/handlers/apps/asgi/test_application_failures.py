"""ASGI applications that fail, and clients that do: who hears of it, and what goes on all the same."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tests.handlers.apps.asgi.exchange import START, STAYS, answer, call, meet, whole_body
from tests.handlers.exchange import parse, request

BODY = {"type": "http.response.body"}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_exception_before_the_response_is_a_500_and_the_connection_goes_on(
    error: type[BaseException], waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fine":
            return await answer(send, b"fine")
        if waits:
            await asyncio.sleep(0.001)
        raise error("on purpose")

    first = parse(meet(application, request("/wrong") + request("/fine"))[0])
    assert (first.status, parse(first.rest).body) == (500, b"fine")
    assert "GET /wrong failed" in caplog.text
    assert "on purpose" in caplog.text
    assert caplog.records[0].exc_info


@pytest.mark.parametrize("messages", [[], [START]])
def test_application_that_returns_without_a_response_is_a_500(
    messages: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    assert call(application).status == 500
    assert "the application has returned, while" in caplog.text


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("raises", [True, False])
def test_response_that_breaks_off_is_cut_and_not_taken_for_the_whole(
    raises: bool, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "body": b"part", "more_body": True})
        await asyncio.sleep(0.01)
        if raises:
            raise ValueError("on purpose")

    asked = request("/", "Connection: close", version=version)
    raw = meet(application, asked, resets=version == "HTTP/1.0", hang_up_after=STAYS)[0]
    assert not raw.endswith(b"0\r\n\r\n")
    assert "GET / failed" in caplog.text


def test_exception_after_the_response_is_logged_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"done")
        await asyncio.sleep(0.001)
        raise ValueError("on purpose")

    assert call(application).body == b"done"
    assert "GET / failed after its response of status 200: ValueError('on purpose')" in caplog.text


def test_exception_that_a_framework_has_answered_by_a_500_is_logged_as_the_requests_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Starlette's outermost middleware sends the 500, then raises on, so that servers may log it."""

    async def boom(request: Request) -> None:
        raise ValueError("on purpose")

    assert call(Starlette(routes=[Route("/boom", boom)]), "/boom").status == 500
    (record,) = caplog.records
    assert record.getMessage() == "GET /boom failed: ValueError('on purpose')"
    assert record.exc_info


@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [START, START],
        [{"type": "websocket.accept"}],
        [{"type": "http.response.trailers"}],
        [{**START, "headers": [("a", "b")]}],
        [{**START, "headers": [b"a"]}],
        [{**START, "headers": [[b"a", "b"]]}],
        [{**START, "status": "200"}],
        [START, {**BODY, "body": "text"}],
        [START, {**BODY, "body": None}],
        [START, BODY, BODY],
        [START, {**BODY, "more_body": True}, START],
    ],
)
def test_wrong_message_raises_in_the_application(messages: list[Any]) -> None:
    raised = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages[:-1]:
            await send(message)
        with pytest.raises(RuntimeError) as caught:
            await send(messages[-1])
        raised.append(str(caught.value))

    meet(application, request())
    assert len(raised) == 1
    assert raised[0]


@pytest.mark.parametrize("field", [(b"a b", b"c"), (b"a", b"b\r\nc: d"), (b"content-length", b"7")])
def test_field_that_cannot_be_sent_is_a_500(field: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x", 200, field)

    assert call(application).status == 500
    assert "GET / failed" in caplog.text


def test_lists_for_pairs_are_fine() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x", 200, [b"x-a", b"1"], [b"x-a", b"2"])

    assert call(application).headers.get_all("x-a") == ["1", "2"]


def test_broken_request_body_is_a_400_and_a_disconnect() -> None:
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await whole_body(receive)
        except AssertionError as error:
            heard.append(str(error))
        await send(START)

    field = "Transfer-Encoding: chunked"
    for body in (b"zz\r\n", b"1\r\nx\r\nzz\r\n"):
        assert parse(meet(application, request("/", field, method="POST") + body)[0]).status == 400
    assert ["http.disconnect" in each for each in heard] == [True, True]


def test_client_that_leaves_in_mid_body_is_a_disconnect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        heard.append(await receive())
        await send(START)

    raw = meet(application, request("/", "Content-Length: 10", method="POST") + b"half")
    assert raw == [b""]
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]
    assert caplog.text == ""


def test_continue_is_sent_when_the_application_first_receives() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await whole_body(receive))

    head = request("/", "Content-Length: 4", "Expect: 100-continue", method="POST")
    raw = meet(application, head, then=b"body")[0]
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert raw.endswith(b"body")


def test_continue_is_not_sent_once_the_response_has_begun() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**BODY, "body": b"early", "more_body": True})
        await asyncio.sleep(0.01)
        await send({**BODY, "body": await whole_body(receive)})

    head = request("/", "Content-Length: 4", "Expect: 100-continue", method="POST")
    raw = meet(application, head, then=b"body")[0]
    assert b"100 Continue" not in raw
    assert parse(raw).body == b"earlybody"


def test_lifespan_comes_before_requests_and_after_them() -> None:
    story = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            story.append(scope["state"]["pool"])
            await answer(send)
            return
        scope["state"]["pool"] = "a pool"
        for step in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{step}"
            await asyncio.sleep(0.001)
            story.append(step)
            await send({"type": f"lifespan.{step}.complete"})

    call(application, lifespan=True)
    assert story == ["startup", "a pool", "shutdown"]
