"""ASGI applications: what they are told, what they may say, and what becomes of either."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from prefork.http.message import Client
from tests.handlers.apps.asgi.exchange import START, STAYS, answer, call, meet, whole_body
from tests.handlers.exchange import parse, request


def scope_of(*fields: str, **how: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await answer(send)

    assert call(application, *fields, **how).status == 200
    return seen


def test_scope_tells_the_request() -> None:
    scope = scope_of("/caf%C3%A9/%2F?a=%20b", "X-One: 1", "Proxy: p", "X_Two: 2", "x-one: 3")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/café//", b"/caf%C3%A9/%2F", b"a=%20b")
    assert scope["headers"] == [(b"host", b"example.com"), (b"x-one", b"1"), (b"x-one", b"3")]
    assert (scope["client"], scope["server"]) == (("192.0.2.7", 50000), ("127.0.0.1", 8000))
    assert (scope["http_version"], scope["scheme"], scope["root_path"]) == ("1.1", "http", "")


def test_path_that_is_no_utf8_has_replacement_characters() -> None:
    assert scope_of("/%FF")["path"] == "/\ufffd"


def test_root_path_is_the_mount_and_the_path_includes_it() -> None:
    scope = scope_of("/api/x", mount="/api")
    assert (scope["root_path"], scope["path"]) == ("/api", "/api/x")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("//api//x", "/api//x"),
        ("/%2Fapi", "/api"),
        ("/api//../api/x", "/api/x"),
        ("/x/..//api/", "/api/"),
    ],
)
def test_the_path_begins_with_root_path_however_it_was_spelled(target: str, path: str) -> None:
    scope = scope_of(target, mount="/api")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", path, target.encode())


def test_unix_socket_has_no_client_and_its_path_for_a_server() -> None:
    scope = scope_of(client=Client("", 0, "http", "/run/app.sock", "", direct=False))
    assert (scope["client"], scope["server"]) == (None, ("/run/app.sock", None))


def test_authority_of_an_absolute_target_is_the_host() -> None:
    assert scope_of("http://other.example/x", "Host: example.com")["headers"] == [(b"host", b"other.example")]


def test_what_one_request_does_to_its_scope_the_next_does_not_see() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = f"{len(scope['headers'])} {len(scope['extensions'])} {len(scope['state'])} {'mine' in scope}".encode()
        scope["headers"].append((b"x", b"y"))
        scope["extensions"]["x"] = scope["state"]["x"] = scope["mine"] = 1
        await answer(send, body)

    first = parse(meet(application, request() + request())[0])
    assert first.body == parse(first.rest).body == b"1 2 0 False"


def test_first_step_is_taken_at_once_as_a_task_of_its_own() -> None:
    tasks = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        tasks.append(task)
        assert asyncio.get_running_loop() is asyncio.get_event_loop()
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is task
        async with asyncio.timeout(5):
            await answer(send, b"here")

    assert [parse(raw).body for raw in meet(application, request(), request(), poller="select")] == [b"here"] * 2
    assert None not in tasks
    assert len(set(tasks)) == len(tasks)


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
def test_body_is_received_whole(size: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await whole_body(receive))

    assert call(application, body=b"x" * size, method="POST").body == b"x" * size


def test_connection_goes_on_after_a_body_that_was_read_in_part_or_not_at_all() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/part":
            await receive()
        await answer(send, scope["path"].encode())

    body = b"x" * 100_000
    sent = request("/part", body=body, method="POST") + request("/none", body=body, method="POST") + request("/last")
    first = parse(meet(application, sent)[0])
    second = parse(first.rest)
    assert [first.body, second.body, parse(second.rest).body] == [b"/part", b"/none", b"/last"]


def test_stream_both_ways() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while True:
            message = await receive()
            await send({"type": "http.response.body", "body": message["body"], "more_body": message["more_body"]})
            if not message["more_body"]:
                return

    body = os.urandom(1_000_000)  # no part of it is like another
    asked = request("/", "Connection: close", body=body, method="POST")
    assert parse(meet(application, asked, hang_up_after=STAYS)[0]).body == body


def test_pieces_sent_without_a_wait_make_one_body_with_its_length() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for piece in (b"a", b"", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    got = call(application)
    assert (got.body, got.headers["Content-Length"]) == (b"ab", "2")


def test_send_waits_while_the_client_does_not_take_the_body() -> None:
    sent = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(OSError, match="gone"):  # noqa: PT012 (which send it is depends on the buffers)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                sent.append(65536)

    meet(application, request(), hang_up_after=1_000_000)
    assert sum(sent) < 40_000_000  # what the kernel's buffers hold, and not what could be produced meanwhile


def test_disconnect_is_received_when_the_client_hangs_up() -> None:
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        heard.append(await receive())
        with pytest.raises(OSError, match="gone") as caught:
            await send(START)
        assert caught.value.errno in (None, errno.EPIPE)

    assert meet(application, request()) == [b""]
    assert heard == [{"type": "http.disconnect"}]


def test_disconnect_is_received_once_the_response_is_complete() -> None:
    heard = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        listening = asyncio.create_task(_listen(receive))
        await asyncio.sleep(0)
        await answer(send, b"done")
        heard.append(await listening)
        heard.append(await receive())

    async def _listen(receive: Any) -> Any:
        await receive()
        return await receive()

    first = parse(meet(application, request() + request("/again"))[0])
    assert (first.body, parse(first.rest).body) == (b"done", b"done")  # what came while it listened is not lost
    assert heard == [{"type": "http.disconnect"}] * 4


def test_two_tasks_that_receive_share_the_body() -> None:
    heard: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] == "http.request":
                heard.append(message)

        await asyncio.gather(listen(), listen())  # until the client is gone

    meet(application, request(body=b"x" * 1_000_000, method="POST"))
    assert sum(len(message["body"]) for message in heard) == 1_000_000
    assert [message["more_body"] for message in heard].count(False) == 1


def test_work_after_the_response_does_not_hold_the_connection_up() -> None:
    gate: list[asyncio.Event] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/first":
            gate.append(asyncio.Event())
            await gate[0].wait()  # opened by the next request of the same connection
        else:
            gate[0].set()

    assert parse(parse(meet(application, request("/first") + request("/second"))[0]).rest).body == b"/second"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
def test_no_body_where_none_may_be(status: int, method: str) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": status})
        for _ in range(3):
            await asyncio.sleep(0.001)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    got = parse(meet(application, request(method=method) + request("/next", method=method))[0], method)
    assert (got.status, got.body, parse(got.rest, method).status) == (status, b"", status)


def test_pathsend_sends_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})

    got = call(application)
    assert (len(got.body), got.headers["Content-Length"]) == (300_000, "300000")


def test_pathsend_of_no_file_is_no_hangup(tmp_path: Path) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for path in (str(tmp_path), str(tmp_path / "none"), None):
            with pytest.raises(RuntimeError, match="pathsend"):
                await send({"type": "http.response.pathsend", "path": path})
        await send({"type": "http.response.body", "body": b"instead"})

    assert call(application).body == b"instead"
