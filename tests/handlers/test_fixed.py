"""Fixed answers and redirects, as they go out."""

from __future__ import annotations

import pytest

from prefork.handlers.fixed import redirect, respond
from prefork.settings.schema import Redirect, Respond
from tests.handlers.exchange import Answer, exchange, parse, request


def answer(settings: Respond | Redirect, method: str = "GET") -> Answer:
    handler = respond(settings) if isinstance(settings, Respond) else redirect(settings)
    return parse(exchange(handler, request("/any?x", method=method)), method)


def test_by_default_it_is_200_with_an_empty_text() -> None:
    got = answer(Respond())
    assert (got.status, got.body) == (200, b"")
    assert (got.headers["Content-Type"], got.headers["Content-Length"]) == ("text/plain; charset=utf-8", "0")


def test_status_type_headers_and_body_are_the_operators() -> None:
    got = answer(Respond(status=503, body='{"ü": 1}', type="application/json", headers={"Retry-After": "9", "X-A": ""}))
    assert (got.status, got.reason, got.body) == (503, "Service Unavailable", '{"ü": 1}'.encode())
    assert got.headers["Content-Type"] == "application/json"
    assert (got.headers["Retry-After"], got.headers["X-A"]) == ("9", "")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "BREW"])
def test_every_method_gets_it(method: str) -> None:
    assert answer(Respond(body="hello"), method).body == b"hello"


def test_head_gets_its_length_alone() -> None:
    got = answer(Respond(body="hello"), "HEAD")
    assert (got.headers["Content-Length"], got.body) == ("5", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int) -> None:
    raw = exchange(respond(Respond(status=status, body="hello")), request("/") * 2)
    got = parse(raw)
    assert (got.status, got.body, got.headers["Content-Length"]) == (status, b"", None)
    assert parse(got.rest).status == status


def test_a_request_body_is_read_past_and_the_connection_lives() -> None:
    sent = request("/", method="POST", body=b"x" * 1000) + request("/")
    first = parse(exchange(respond(Respond(body="hello")), sent))
    assert (first.body, parse(first.rest).body) == (b"hello", b"hello")


def test_a_redirect_is_308_by_default_with_its_location_and_no_body() -> None:
    got = answer(Redirect(to="https://example.com/"))
    assert (got.status, got.reason, got.body) == (308, "Permanent Redirect", b"")
    assert (got.headers["Location"], got.headers["Content-Length"]) == ("https://example.com/", "0")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["/", "/a?b#c", "//other.example/x", "https://example.com/%C3%A9", "caf\xe9"])
def test_a_redirect_leads_where_the_operator_says_as_it_stands(status: int, to: str) -> None:
    got = answer(Redirect(to=to, status=status))
    assert (got.status, got.headers["Location"]) == (status, to)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/a%20b?c=d", "https://www.example.com/a%20b?c=d"),
        (b"http://example.com/a?b", "https://www.example.com/a?b"),
        (b"http://example.com?b", "https://www.example.com/?b"),
        (b"//evil.example/", "https://www.example.com//evil.example/"),
    ],
)
def test_a_redirect_can_keep_what_was_asked_for(target: bytes, location: str) -> None:
    handler = redirect(Redirect(to="https://www.example.com$request_uri"))
    got = exchange(handler, b"GET " + target + b" HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
    assert f"Location: {location}\r\n".encode() in got


def test_a_redirect_can_repeat_what_was_asked_for() -> None:
    got = answer(Redirect(to="/login?next=$request_uri&here=$request_uri"))
    assert got.headers["Location"] == "/login?next=/any?x&here=/any?x"
