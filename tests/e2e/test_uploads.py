"""Big bodies, eight at once: every byte arrives, and the worker does not hold them in its memory."""

from __future__ import annotations

import hashlib
import http.client
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from random import Random

import pytest

from tests.e2e.apps import CONFIG
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

MiB = 1 << 20
SIZE = 64  # MiB, of each body
CLIENTS = 8
ROOM = 40 * MiB  # what the worker may grow by
PATIENCE = 20.0  # seconds that a client waits for the next bytes

APP = f"""
import hashlib


def app(environ, start_response):
    start_response("200 OK", [])
    if environ["REQUEST_METHOD"] == "POST":
        digest = hashlib.sha256()
        while data := environ["wsgi.input"].read(65536):
            digest.update(data)
        return [digest.hexdigest().encode()]
    return (bytes([number]) * 65536 for number in range(256) for _ in range({SIZE // 16}))
"""


@pytest.fixture
def server(serve: Serve) -> Server:
    server = serve(f'[http]\nmax_body = "100MiB"\n{CONFIG}', files={"app.py": APP})
    assert server.get(method="POST", body=b"hello").body == hashlib.sha256(b"hello").hexdigest().encode()
    return server


def at_once(server: Server, talk: Callable[[socket.socket, int], str]) -> list[str]:
    """What eight clients bring back from their talks. The worker must not grow by ROOM meanwhile."""
    (worker,) = server.workers()
    idle = worker.memory_info().rss

    def converse(number: int) -> str:
        with server.connect(timeout=PATIENCE) as connection:
            return talk(connection, number)

    most = idle
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(converse, number) for number in range(CLIENTS)]
        while not all(map(Future.done, clients)):
            wait(clients, timeout=0.01)
            most = max(most, worker.memory_info().rss)
    print(f"the worker has grown by {(most - idle) / MiB:.1f} MiB")
    assert most - idle < ROOM
    return [client.result() for client in clients]


def blocks(number: int) -> Iterator[bytes]:
    """The body of a client, a MiB at a time, unlike that of any other."""
    block = Random(number).randbytes(MiB)
    for turn in range(SIZE):
        yield block[turn:] + block[:turn]


def digest(pieces: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def upload_by_length(connection: socket.socket, number: int) -> str:
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (SIZE * MiB))
    for block in blocks(number):
        connection.sendall(block)
    return read_all(connection).decode()


def upload_in_chunks(connection: socket.socket, number: int) -> str:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for block in blocks(number):
        connection.sendall(b"%x\r\n%b\r\n" % (len(block), block))
    connection.sendall(b"0\r\n\r\n")
    return read_all(connection).decode()


@pytest.mark.parametrize("upload", [upload_by_length, upload_in_chunks], ids=["length", "chunks"])
def test_uploads_arrive_whole_and_are_not_held_in_memory(
    server: Server, upload: Callable[[socket.socket, int], str]
) -> None:
    answers = at_once(server, upload)
    assert all(answer.startswith("HTTP/1.1 200 ") for answer in answers)
    assert [answer[-64:] for answer in answers] == [digest(blocks(number)) for number in range(CLIENTS)]


def download(connection: socket.socket, number: int) -> str:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.getheader("Transfer-Encoding") == "chunked"
    return digest(iter(lambda: response.read(65536), b""))


def test_downloads_arrive_whole_and_are_not_held_in_memory(server: Server) -> None:
    whole = digest(bytes([number]) * (SIZE * MiB // 256) for number in range(256))
    assert at_once(server, download) == [whole] * CLIENTS


def test_a_directory_for_large_bodies_that_is_missing_is_told_at_boot(serve: Serve) -> None:
    config = '[workers]\ncount = 2\nenv = { TMPDIR = "/nowhere" }\n[[route]]\nrespond = {}\n'
    server = serve(config)
    server.wait_log("request bodies are kept in /.*, since TMPDIR \\(/nowhere\\) cannot be written to")
    assert server.stderr.count("/nowhere") == 1
