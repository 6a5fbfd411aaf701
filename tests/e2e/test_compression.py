"""Compression by a real server: files, WSGI and ASGI, whole and in pieces, to clients that decode by themselves."""

from __future__ import annotations

import http.client
import json
import subprocess
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually, needs
from tests.e2e.chromium import Chromium, chromium
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

__all__ = ["chromium"]

CONFIG = """
[workers]
count = 1
env = { WSGI_GATE = "wsgi.gate", ASGI_GATE = "asgi.gate" }
[compression]
enabled = true
[[route]]
path = "/"
files = "public"
[[route]]
path = "/wsgi"
wsgi = "encoded_app:wsgi"
[[route]]
path = "/asgi"
asgi = "encoded_app:asgi"
[[route]]
path = "/plain"
wsgi = "encoded_app:wsgi"
compression = false
"""
APP = """
import asyncio, os, time
TEXT = b"".join(b"<p>line %d of a text that repeats itself</p>\\n" % number for number in range(5000))
EVENTS = ("Content-Type", "text/event-stream")
MADE = []

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [EVENTS if path == "/events" else ("Content-Type", "text/html"), ("ETag", '"v1"')])
    if path == "/events":
        return events()
    return [TEXT] if path == "/whole" else (TEXT[at:at + 1000] for at in range(0, len(TEXT), 1000))

def events():
    yield b"data: first\\n\\n"
    while not os.path.exists(os.environ["WSGI_GATE"]):
        time.sleep(0.01)
    yield b"data: last\\n\\n"

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"].removeprefix("/asgi")
    kind = b"text/event-stream" if path == "/events" else b"text/html"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    async def more(body, more_body=True):
        await send({"type": "http.response.body", "body": body, "more_body": more_body})
    if path == "/events":
        await more(b"data: first\\n\\n")
        while not os.path.exists(os.environ["ASGI_GATE"]):
            await asyncio.sleep(0.01)
        await more(b"data: last\\n\\n", False)
    elif path == "/endless":
        while True:
            await more(os.urandom(65536))
            MADE.append(1)
    elif path == "/made":
        await more(b"%d" % len(MADE), False)
    elif path == "/whole":
        await more(TEXT, False)
    else:
        for at in range(0, len(TEXT), 1000):
            await more(TEXT[at:at + 1000])
        await more(b"", False)
"""
TEXT = b"".join(b"<p>line %d of a text that repeats itself</p>\n" % number for number in range(5000))
PAGE = """<!doctype html><title>waiting</title><link rel="icon" href="data:,">
<script>
const source = new EventSource("/asgi/events"), heard = []
source.onmessage = event => { heard.push(event.data); document.title = heard.join(); source.close() }
</script>"""
SOURCES = ["/text.html", "/wsgi/whole", "/wsgi/pieces", "/asgi/whole", "/asgi/pieces"]


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    files = {"encoded_app.py": APP, "public/text.html": TEXT, "public/page.html": PAGE + "<!-- " + "x" * 1024 + " -->"}
    server = serve_module(CONFIG, files)
    yield server
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize("path", SOURCES)
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_curl_decodes_what_whoever_has_made(server: Server, path: str, coding: str, tmp_path: Path) -> None:
    needs("curl")
    features = subprocess.run(["curl", "-V"], capture_output=True, text=True).stdout
    if {"br": "brotli", "zstd": "zstd", "gzip": "libz"}[coding] not in features:
        pytest.skip(f"this curl has no {coding}")
    command = ["curl", "-s", "--noproxy", "*", "--compressed", "-H", f"Accept-Encoding: {coding}", "-o"]
    url = f"http://127.0.0.1:{server.port}{path}"
    told = subprocess.run(
        [*command, tmp_path / "body", "-w", "%{http_code} %{size_download} %header{content-encoding}", url],
        capture_output=True,
        text=True,
        timeout=20,
    )
    status, size, said = told.stdout.split()
    assert (status, said) == ("200", coding)
    assert int(size) < len(TEXT) / 5
    assert (tmp_path / "body").read_bytes() == TEXT


@pytest.mark.parametrize("path", SOURCES)
def test_who_accepts_nothing_gets_it_as_it_is(server: Server, path: str) -> None:
    answer = server.get(path)
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == (None, "Accept-Encoding")
    assert answer.body == TEXT


def test_a_connection_goes_on_after_encoded_answers_of_each_kind(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for path in SOURCES * 3:
        connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        assert (answer.status, zlib.decompress(answer.read(), 31)) == (200, TEXT)
    connection.close()


def test_a_kept_file_is_given_again_to_who_asks_as_before_and_as_long_as_it_is_true(server: Server) -> None:
    file = server.directory / "public" / "changing.html"
    file.write_bytes(TEXT)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def ask(accept: str) -> bytes:
        connection.request("GET", "/changing.html", headers={"Accept-Encoding": accept})
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.headers["Content-Encoding"] == "gzip") is (accept == "gzip")
        return zlib.decompress(body, 31) if accept == "gzip" else body

    def repeats() -> int:
        return int(json.loads(server.command("status", "--json").stdout)["totals"]["repeats"])

    before = repeats()
    assert {ask(accept) for accept in ["gzip", "identity", "gzip;q=0"] * 8} == {TEXT}
    assert repeats() > before
    file.write_bytes(TEXT[::-1])
    for accept in ("gzip", "identity"):
        eventually(lambda accept=accept: ask(accept) == TEXT[::-1], what="the file of now")  # type: ignore[misc]
    connection.close()


def test_a_route_may_stay_as_it_is(server: Server) -> None:
    answer = server.get("/plain/whole", {"Accept-Encoding": "gzip"})
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"], answer.body) == (None, None, TEXT)


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_an_event_arrives_while_its_maker_waits_for_the_next(server: Server, kind: str) -> None:
    gate = server.directory / f"{kind}.gate"
    gate.unlink(missing_ok=True)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", f"/{kind}/events", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert (answer.headers["Content-Encoding"], answer.headers["Transfer-Encoding"]) == ("gzip", "chunked")
    decoder = zlib.decompressobj(31)
    heard = b""
    while heard != b"data: first\n\n":
        heard += decoder.decompress(answer.read1())
    gate.touch()
    assert decoder.decompress(answer.read()) == b"data: last\n\n"
    assert decoder.eof
    connection.close()


def test_a_reader_that_stops_stops_who_makes_the_body(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"GET /asgi/endless HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
        assert b"Content-Encoding: gzip" in client.recv(300)
        made: deque[int] = deque(maxlen=20)

        def rests() -> bool:
            made.append(int(server.get("/asgi/made").body))
            return len(made) == 20 and made[0] == made[-1] > 0

        eventually(rests, what="an application that waits")
    assert made[-1] < 200  # of 64 KiB: what is not read waits in the sockets, and no more than two pieces with us


def test_chromium_hears_events_that_are_encoded(server: Server, chromium: Chromium) -> None:
    (server.directory / "asgi.gate").touch()
    dom = chromium.dom(f"http://127.0.0.1:{server.port}/page.html")
    assert "<title>first</title>" in dom


def test_a_coding_that_is_not_there_is_a_config_error(serve: Serve) -> None:
    blocked = "import sys, importlib.util\nfind = importlib.util.find_spec\n"
    blocked += "importlib.util.find_spec = lambda name, *rest: None if name == 'brotli' else find(name, *rest)\n"
    server = serve(
        '[workers]\ncount = 1\n[compression]\ncodings = ["br"]\n[[route]]\nrespond = { body = "x" }\n',
        {"sitecustomize.py": blocked},
        wait=False,
    )
    assert server.wait_exit() == 2
    assert "compression.codings: br needs the package brotli: pip install brotli" in server.stderr
