"""Trailers: fields that an application sends behind the last piece of a body (the extension http.response.trailers)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.handlers.apps.asgi.exchange import Application, meet
from tests.handlers.exchange import parse, request

START = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": True}
ASKS = "TE: trailers"


def body(piece: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def trailers(*headers: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": headers, "more_trailers": more}


def sends(*messages: Any) -> Application:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.trailers" in scope["extensions"]
        for message in messages:
            await send(message)

    return application


@pytest.mark.parametrize("pieces", [[b"whole"], [b"in ", b"pieces"], [b""], [b"", b"late"]])
@pytest.mark.parametrize("te", [ASKS, "TE: gzip, Trailers"])
def test_a_client_that_asks_for_trailers_gets_them_behind_the_body(pieces: list[bytes], te: str) -> None:
    bodies = [body(piece, more=True) for piece in pieces[:-1]] + [body(pieces[-1])]
    application = sends(START, *bodies, trailers((b"x-sum", b"42"), (b"x-time", b"1")))
    first, second = _split(meet(application, request("/", te) + request("/next"))[0])
    assert first.endswith(b"\r\n0\r\nx-sum: 42\r\nx-time: 1\r\n\r\n")
    assert parse(first).body == b"".join(pieces)
    assert parse(first).headers["trailer"] == "x-sum"
    assert parse(second).status == 200


def _split(answers: bytes) -> tuple[bytes, bytes]:
    """The two answers, of which each begins with a status line."""
    second = answers.index(b"HTTP/1.1", 1)
    return answers[:second], answers[second:]


def test_trailers_may_come_in_several_messages() -> None:
    application = sends(
        START, body(b"x"), trailers((b"a", b"1"), more=True), trailers(more=True), trailers((b"b", b"2"))
    )
    assert meet(application, request("/", ASKS))[0].endswith(b"\r\n0\r\na: 1\r\nb: 2\r\n\r\n")


@pytest.mark.parametrize("asked", [request(), request("/", "TE: gzip"), request("/", ASKS, version="HTTP/1.0")])
def test_other_clients_get_the_body_alone(asked: bytes) -> None:
    application = sends(START, body(b"in ", more=True), body(b"pieces"), trailers((b"x-sum", b"42")))
    got = meet(application, asked)[0]
    assert parse(got).body == b"in pieces"
    assert b"42" not in got


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_without_a_body_has_no_trailers(method: str, status: int) -> None:
    application = sends({**START, "status": status}, body(b"x", more=True), body(b"y"), trailers((b"x-sum", b"42")))
    first, second = _split(meet(application, 2 * request("/", ASKS, method=method))[0])
    assert parse(first, method).status == parse(second, method).status == status
    assert b"42" not in first + second


def test_a_body_with_a_length_has_no_trailers() -> None:
    start = {**START, "headers": [(b"content-length", b"1")]}
    got = meet(sends(start, body(b"x"), trailers((b"x-sum", b"42"))), request("/", ASKS))[0]
    assert parse(got).body == b"x"
    assert b"42" not in got


def test_a_file_may_be_followed_by_trailers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"of a file")
    pathsend = {"type": "http.response.pathsend", "path": str(tmp_path / "file")}
    got = meet(sends(START, pathsend, trailers((b"x-sum", b"42"))), request("/", ASKS))[0]
    assert parse(got).body == b"of a file"
    assert got.endswith(b"\r\n0\r\nx-sum: 42\r\n\r\n")


@pytest.mark.parametrize(
    ("before", "message", "expected"),
    [
        ([{**START, "trailers": False}, body(b"x")], trailers(), "the response was complete"),
        ([{**START, "trailers": False}], trailers(), "the response's body was due"),
        ([START], trailers(), "more of the response's body was due"),
        ([START, body(b"x", more=True)], trailers(), "more of the response's body was due"),
        ([START, body(b"x")], body(b"more"), "http.response.trailers was due"),
        ([START, body(b"x"), trailers()], trailers(), "the response was complete"),
    ],
)
def test_trailers_come_where_they_were_announced_and_nowhere_else(
    before: list[Any], message: Any, expected: str
) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        for each in before:
            await send(each)
        with pytest.raises(RuntimeError, match=f"{message['type']}.*{expected}"):
            await send(message)
        raise SystemExit

    meet(application, request("/", ASKS))


def test_an_application_that_owes_its_trailers_is_told_of_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    got = meet(sends(START, body(b"x")), request("/", ASKS))[0]
    assert not got.endswith(b"0\r\n\r\n")
    assert "the application has returned, while http.response.trailers was due" in caplog.text


@pytest.mark.parametrize(
    "field",
    [
        (b"content-length", b"5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"set-cookie", b"a=b"),
        (b"a b", b"c"),
        (b"a", b"b\r\nc: d"),
    ],
)
def test_a_field_that_may_not_be_a_trailer_cuts_the_response(
    field: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    got = meet(sends(START, body(b"x" * 100_000, more=True), body(b""), trailers(field)), request("/", ASKS))[0]
    assert not got.endswith(b"\r\n\r\n")
    assert field[1] not in got.partition(b"\r\n\r\n")[2]
    assert "trailer" in caplog.text
