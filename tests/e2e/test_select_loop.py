"""The founding demonstrations: one select loop serves many clients at once, and nobody waits for who is slow."""

from __future__ import annotations

import hashlib
import os
import random
import socket

import psutil
import pytest

from prefork.runtime.poller import POLLERS
from tests.e2e.apps import SITE, connect
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SIZE = 10 << 20  # far beyond what the socket buffers of both ends hold together
BODY = random.Random(1).randbytes(SIZE)  # not periodic: a slice that is lost, doubled or displaced shows

WORKERS = 'count = {count}\nevent_loop = "{event_loop}"'
CONFIG = "[http]\nheader_timeout = 60\nsend_timeout = 60\n" + SITE.replace("count = 1", WORKERS)

APP = """
import os

with open("public/big", "rb") as file:
    BIG = file.read()


def pieces():
    for start in range(0, len(BIG), 10_000):
        yield BIG[start : start + 10_000]


def app(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [("Content-Length", str(len(BIG)))]
    if path == "/bytes":
        start_response("200 OK", headers)
        return [BIG]
    if path == "/generator":
        start_response("200 OK", headers)
        return pieces()
    if path == "/chunked":
        start_response("200 OK", [])
        return pieces()
    if path == "/file":
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](open("public/big", "rb"))
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@pytest.fixture(scope="module", params=POLLERS)
def server(request: pytest.FixtureRequest, serve_module: Serve) -> Server:
    """One worker, on each of the event loops that this platform has."""
    return start(serve_module, request.param)


def start(serve: Serve, event_loop: str = "auto", count: int = 1) -> Server:
    return serve(CONFIG.format(event_loop=event_loop, count=count), files={"app.py": APP, "public/big": BODY})


def test_silent_clients_do_not_delay_others(server: Server) -> None:
    with server.connect() as silent, server.connect() as half:
        half.sendall(REQUEST[:20])
        for _ in range(10):
            assert server.get().status == 200
        for waiting in (silent, half):  # still there, and still unanswered
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            waiting.settimeout(10)
        half.sendall(REQUEST[20:])
        silent.sendall(REQUEST)
        assert read_all(half).startswith(b"HTTP/1.1 200 ")
        assert read_all(silent).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/bytes", "/generator", "/chunked", "/file", "/files/big"])
def test_a_slow_reader_blocks_nobody_and_gets_everything(server: Server, path: str) -> None:
    reader = connect(server)
    reader.sock = socket.socket()
    reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.sock.settimeout(10)
    reader.sock.connect(("127.0.0.1", server.port))
    try:
        reader.request("GET", path)
        response = reader.getresponse()
        assert response.status == 200
        digest = hashlib.sha256()
        for _ in range(10):
            digest.update(response.read(10_000))
            assert server.get().status == 200
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # enough of slowness
        while data := response.read(65536):
            digest.update(data)
        assert digest.digest() == hashlib.sha256(BODY).digest()
        reader.request("GET", "/")  # nothing was left behind on the connection either
        assert reader.getresponse().status == 200
    finally:
        reader.close()


def test_workers_share_one_listening_socket_and_all_of_them_answer(serve: Serve) -> None:
    server = start(serve, count=4)
    workers = {worker.pid for worker in server.workers()}
    assert len(workers) == 4
    answered: set[int] = set()
    for _ in range(500):
        answered.add(int(server.get().body))
        if answered == workers:
            break
    assert answered == workers
    listeners = [listening(pid, server.port) for pid in workers]
    assert all(len(inodes) == 1 for inodes in listeners)
    assert len(set.union(*listeners)) == 1


def listening(pid: int, port: int) -> set[str]:
    """The sockets, by inode, that process `pid` listens to on `port`."""
    connections = psutil.Process(pid).net_connections("tcp")
    return {
        os.readlink(f"/proc/{pid}/fd/{connection.fd}")
        for connection in connections
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
