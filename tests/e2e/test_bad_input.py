"""What clients must not send: each gets its status or its end, alone, and the worker does not even notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e import apps
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

CONFIG = f"""
[http]
header_timeout = 0.5
body_timeout = 0.5
max_body = "1MiB"
{apps.CONFIG}"""

APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % len(environ["wsgi.input"].read())]
"""

HOST = b"Host: x\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"  # follows each of them, and is never to be answered
TLS_HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(range(64, 96)) + bytes.fromhex("20") + bytes(32)


def get(fields: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


SHAPES = {
    "all bytes": (bytes(range(256)), 400),
    "a TLS hello": (TLS_HELLO, 400),
    "an SSH banner": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "a version in lower case": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "two spaces in the request line": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tab in the request line": (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a control character in the target": (b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a path above the root": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a NUL in the path": (b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "no Host": (get(b""), 400),
    "two Hosts": (get(HOST + HOST), 400),
    "a Host with a path": (get(b"Host: x/y\r\n"), 400),
    "lines that end in a bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "one line that ends in a bare LF": (get(b"Host: x\nA: b\r\n"), 400),
    "a bare CR": (get(HOST + b"A: b\rc\r\n"), 400),
    "a NUL in a field": (get(HOST + b"A: b\0c\r\n"), 400),
    "a space before the colon": (post(b"Content-Length : 5\r\n", b"hello"), 400),
    "a folded line": (get(HOST + b"A: b\r\n c\r\n"), 400),
    "a field without a colon": (get(HOST + b"A\r\n"), 400),
    "a field without a name": (get(HOST + b": b\r\n"), 400),
    "an unknown expectation": (post(b"Content-Length: 5\r\nExpect: coffee\r\n", b"hello"), 417),
    "Content-Length and Transfer-Encoding": (
        post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        400,
    ),
    "Transfer-Encoding and Content-Length": (
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        400,
    ),
    "two lengths that differ": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), 400),
    "two lengths that do not": (post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), 400),
    "a list of lengths": (post(b"Content-Length: 5, 5\r\n", b"hello"), 400),
    "a length with a plus sign": (post(b"Content-Length: +5\r\n", b"hello"), 400),
    "a negative length": (post(b"Content-Length: -5\r\n", b"hello"), 400),
    "a length in hex": (post(b"Content-Length: 0x5\r\n", b"hello"), 400),
    "a length with an underscore": (post(b"Content-Length: 1_0\r\n", b"hellohello"), 400),
    "an empty length": (post(b"Content-Length:\r\n", b"hello"), 400),
    "a length of 30 digits": (post(b"Content-Length: " + b"9" * 30 + b"\r\n"), 400),
    "Transfer-Encoding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an unknown coding": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501),
    "a coding after chunked": (post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), 400),
    "chunked twice": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400),
    "almost chunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400),
    "chunked behind a vertical tab": (post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), 400),
    "a chunk size with a plus sign": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "a negative chunk size": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with an underscore": (chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), 400),
    "a space before a chunk size": (chunked(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "no chunk size": (chunked(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size of 20 digits": (chunked(b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk beyond every bound": (chunked(b"f" * 15 + b"\r\nhello\r\n0\r\n\r\n"), 413),
    "a chunk line that never ends": (chunked(b"5;" + b"a" * 5000), 400),
    "a chunk longer than its size": (chunked(b"4\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk line that ends in a bare LF": (chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "a bare CR in a chunk line": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "a bare LF in the trailers": (chunked(b"5\r\nhello\r\n0\r\nA: b\nC: d\r\n\r\n"), 400),
    "trailers without an end": (chunked(b"0\r\n" + b"A: b\r\n" * 10_000), 431),
    "a target of 100 KB": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a field of 1 MiB": (get(HOST + b"A: " + b"b" * (1 << 20) + b"\r\n"), 431),
    "ten thousand fields": (get(HOST + b"A: b\r\n" * 10_000), 431),
    "101 fields": (get(HOST + b"A: b\r\n" * 100), 431),
    "a length beyond max_body": (post(b"Content-Length: 1048577\r\n"), 413),
}


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    return serve_module(CONFIG, files={"app.py": APP})


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose worker lives on after the test, and has said not a word about it."""
    with apps.undisturbed(shared):
        yield shared
        assert shared.get().status == 200


@pytest.mark.parametrize(("data", "status"), SHAPES.values(), ids=SHAPES)
def test_a_malformed_request_is_answered_with_its_status_and_nothing_after_it(
    server: Server, data: bytes, status: int
) -> None:
    answer = server.raw(data + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("seam", [b"\r\n", b" ", b"HTT"])
def test_a_malformed_request_in_two_packets_is_answered_likewise(server: Server, seam: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"
    at = data.index(seam) + 1
    with server.connect() as connection:
        connection.sendall(data[:at])
        assert server.get().status == 200  # by now the first part has arrived
        connection.sendall(data[at:] + SMUGGLED)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_an_unfinished_head_is_not_taken_for_one_that_is_known(server: Server) -> None:
    server.raw(b"GET / HTTP/1.0\r\n\r\n")  # known from now on: this line, and a block of no fields
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n")
        assert server.get().status == 200  # by now it has arrived
        connection.sendall(b"Host: x\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_request_that_is_never_finished_is_a_request_timeout(server: Server) -> None:
    begun = [
        b"G",
        b"\r\nG",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b",
        post(b"Content-Length: 10\r\n", b"hello"),
        chunked(b"5\r\nhel"),
        chunked(b"5\r\nhello\r\n0\r\nA: b\r\n"),
    ]
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in begun]
        for connection, data in zip(connections, begun, strict=True):
            connection.sendall(data)
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
            assert connection.recv(65536) == b""


def test_a_head_that_comes_in_drips_gets_no_more_time(server: Server) -> None:
    answer = b""
    with server.connect(timeout=0.1) as connection:
        for byte in b"GET / HTTP/1.1\r\nA: " + b"b" * 80:  # 10 s of dripping
            connection.send(bytes([byte]))
            with suppress(TimeoutError):
                answer = connection.recv(65536)
                break
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_says_nothing_at_all_is_closed_without_a_word(server: Server) -> None:
    assert server.raw(b"") == b""


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_who_is_still_sending_a_body_too_large_gets_to_read_413(server: Server, framing: str) -> None:
    body = bytes(20 << 20)
    if framing == "length":
        data = post(b"Content-Length: %d\r\n" % len(body), body)
    else:
        data = chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert server.raw(data).startswith(b"HTTP/1.1 413 ")  # reads only when all is sent


def test_a_body_of_just_the_largest_size_is_accepted(server: Server) -> None:
    assert server.get("/", method="POST", body=bytes(1 << 20)).body == b"1048576"
