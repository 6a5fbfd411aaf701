"""Spellings of paths against routes, over real connections: no spelling leads past a route that refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.apps import ALONE, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server
from tests.spellings import BAD, OPEN, PRIVATE

APPS = """
def wsgi(environ, start_response):
    body = f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    body = f"{scope['root_path']}|{scope['path']}".encode()
    fields = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
"""

ROUTES = """
[[route]]
files = { root = "public", try = ["$uri", "$uri.html"], listing = true, precompressed = true }
[[route]]
path = "/private/"
respond = { status = 403 }
[[route]]
path = "/static/private"
respond = { status = 403 }
[[route]]
path = "/page.html"
respond = { status = 403 }
[[route]]
path = "/wsgi"
wsgi = "apps:wsgi"
[[route]]
path = "/asgi"
asgi = "apps:asgi"
lifespan = "off"

[[route]]
host = "app"
wsgi = "apps:wsgi"
[[route]]
host = "app"
path = "/private"
respond = { status = 403 }
[[route]]
host = "app"
path = "/static/private"
respond = { status = 403 }
"""

SECRET = b"nobody is to read this"
FILES = {
    "apps.py": APPS,
    "public/x": "x",
    "public/page.html": SECRET,
    "public/private/x": SECRET,
    "public/private/index.html": SECRET,
    "public/static/private/x": SECRET,
    "public/static/private/index.html": SECRET,
}


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    return serve_module(ALONE + ROUTES, files=FILES)


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    with undisturbed(shared):
        yield shared


def ask(server: Server, target: str, host: str = "a", times: int = 1) -> list[tuple[int, bytes]]:
    """Status and body of each answer to a request made `times` times on one connection."""
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n".encode()
    data = server.raw((request + b"\r\n") * (times - 1) + request + b"Connection: close\r\n\r\n")
    answers = []
    for answer in data.split(b"HTTP/1.1 ")[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"\nLocation:" not in head or b"private" not in head, (target, head)
        answers.append((int(head[:3]), body))
    assert len(answers) in (1, times)  # a 400 is the last of a connection
    return answers


@pytest.mark.parametrize("host", ["a", "app", "APP.:8000"], ids=["files", "application", "application, spelled"])
def test_no_spelling_leads_past_a_route_that_refuses(server: Server, host: str) -> None:
    for target in PRIVATE:
        if not target.startswith("http:"):  # whose authority counts
            assert {status for status, _ in ask(server, target, host, times=4)} == {403}, target
    for target in BAD:
        assert {status for status, _ in ask(server, target, host)} == {400}, target


def test_an_absolute_target_is_routed_by_its_own_authority_and_path(server: Server) -> None:
    for target in PRIVATE:
        if target.startswith("http:"):
            assert {status for status, _ in ask(server, target, times=4)} == {403}, target
    assert ask(server, "http://app//x", "a") == [(200, b"|//x")]
    assert ask(server, "http://A.:80//x", "app") == [(200, b"x")]


def test_what_is_spelled_otherwise_is_another_path(server: Server) -> None:
    for target in OPEN:
        ((status, body),) = ask(server, target)
        assert status in (200, 301, 404), target
        assert SECRET not in body, target
        if not target.startswith("http:"):
            assert ask(server, target, "app")[0][0] == 200, target


def test_neither_a_listing_nor_a_name_to_try_leads_past_a_route(server: Server) -> None:
    ((status, body),) = ask(server, "/")
    assert (status, b'href="x"' in body, b"private" in body, b"page.html" in body) == (200, True, False, False)
    assert ask(server, "/page", times=3) == [(404, b"404 Not Found\n")] * 3


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("{}", ""),
        ("{}//x", "//x"),
        ("/{}/x", "/x"),
        ("//x/..{}/x/", "/x/"),
        ("/a/..{}//x", "//x"),
        ("{0}//..{0}/x", "/x"),
    ],
)
def test_an_application_finds_its_own_path_whatever_the_spelling(server: Server, target: str, rest: str) -> None:
    assert ask(server, target.format("/wsgi")) == [(200, f"/wsgi|{rest}".encode())]
    assert ask(server, target.format("/asgi")) == [(200, f"/asgi|/asgi{rest}".encode())]
