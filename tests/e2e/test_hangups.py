"""Clients that leave at the wrong moment: nothing is said about it, nothing leaks, every body is closed."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import SITE, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

CONFIG = f"[http]\nheader_timeout = 60\n{SITE}"

APP = """
bodies = 0


class Endless:
    def __init__(self):
        global bodies
        bodies += 1

    def __iter__(self):
        while True:
            yield b"x" * 10_000

    def close(self):
        global bodies
        bodies -= 1


def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/endless":
        return Endless()
    if environ["PATH_INFO"] == "/big":
        return [b"x" * 5_000_000]
    if environ["PATH_INFO"] == "/bodies":
        return [str(bodies).encode()]
    return [str(len(environ["wsgi.input"].read())).encode()]
"""

HOST = b"Host: x\r\n"
MiB = 1 << 20


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, HOST)


def post(field: bytes, body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n" + body


# What a client says, and how much of the answer it waits for before it leaves.
SCENES: dict[str, tuple[bytes, int]] = {
    "without a word": (b"", 0),
    "in mid-head": (b"GET / HTTP/1.1\r\nHos", 0),
    "in mid-upload": (post(b"Content-Length: 100000", b"x" * 99_999), 0),
    "in mid-chunk": (post(b"Transfer-Encoding: chunked", b"5\r\nhel"), 0),
    "before the answer": (get(b"/"), 0),
    "after the answer": (get(b"/"), 1),
    "before an endless answer": (get(b"/endless"), 0),
    "in an endless answer": (get(b"/endless"), 1000),
    "in a long answer": (get(b"/big"), 1000),
    "in a long file": (get(b"/files/big"), 1000),
    "after garbage": (b"\0\xff\r\n\r\n", 0),
    "after a refusal": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "in a pipeline": (get(b"/") * 50 + get(b"/endless"), 10),
}


def abort(connection: socket.socket) -> None:
    """Close by a reset, as a crashed or impatient client does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def play(server: Server, data: bytes, wanted: int, leave: Callable[[socket.socket], None]) -> None:
    connection = server.connect()
    try:
        connection.sendall(data)
        while wanted > 0:
            wanted -= len(connection.recv(wanted))
    finally:
        leave(connection)


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    server = serve_module(CONFIG, files={"app.py": APP, "public/small": b"x"})
    with open(server.directory / "public" / "big", "wb") as file:
        file.truncate(100 * MiB)
    return server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose worker lives on after the test, has closed every body, and has said nothing."""
    with undisturbed(shared):
        yield shared
        all_closed(shared)


def all_closed(server: Server) -> None:
    """Wait until every body is, and with it the files in which some of it waited for its client."""
    eventually(lambda: server.get("/bodies").body == b"0", what="the end of all endless answers")


@pytest.mark.parametrize("leave", [abort, socket.socket.close], ids=["reset", "close"])
@pytest.mark.parametrize(("data", "wanted"), SCENES.values(), ids=SCENES)
def test_a_client_leaves(server: Server, data: bytes, wanted: int, leave: Callable[[socket.socket], None]) -> None:
    for _ in range(3):
        play(server, data, wanted, leave)
        assert server.get().status == 200


def test_a_client_that_has_no_more_to_say_still_gets_its_answers(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(post(b"Content-Length: 5", b"hello") + get(b"/bodies"))
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith(b"\r\n\r\n0")


def test_three_thousand_bad_clients_leak_neither_descriptors_nor_memory(server: Server) -> None:
    (worker,) = server.workers()
    choose = random.Random(1)

    def annoy(times: int) -> None:
        for _ in range(times):
            data, wanted = choose.choice(list(SCENES.values()))
            play(server, data, wanted, choose.choice([abort, socket.socket.close]))

    def settle() -> psutil.Process:
        """The worker, once all that is open is what it keeps."""
        all_closed(server)
        eventually(lambda: open_connections(worker, server.port) == 0, what="the end of every connection")
        return worker

    annoy(300)
    descriptors = settle().num_fds()
    annoy(700)
    assert settle().num_fds() == descriptors
    growth: list[int] = []
    # a leak shows every time; what malloc keeps, for each thread, of when most of them were there at once does not
    while len(growth) < 4 or (min(growth) >= 2 * MiB and len(growth) < 16):
        before = worker.memory_info().rss
        annoy(500)
        assert settle().num_fds() == descriptors
        growth.append(worker.memory_info().rss - before)
    assert min(growth) < 2 * MiB, growth


def open_connections(worker: psutil.Process, port: int) -> int:
    """How many clients the worker is connected with."""
    connections = worker.net_connections("tcp")
    return sum(1 for one in connections if one.laddr.port == port and one.status != psutil.CONN_LISTEN)
