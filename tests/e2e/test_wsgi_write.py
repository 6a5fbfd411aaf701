"""write() in a real server: a long transfer is no stuck call, and a stuck one is told of as any other is."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

APP = r"""
import os, time

def hold(name):
    while not os.path.exists(name):
        time.sleep(0.005)

def app(environ, start_response):
    path, query = environ["SCRIPT_NAME"] + environ["PATH_INFO"], environ["QUERY_STRING"]
    write = start_response("200 OK", [])
    if path == "/clone":
        for _ in range(6):
            write(b"pack")
            time.sleep(0.2)
    elif path == "/hold":
        write(b"begin")
        hold(query)
        write(b"end")
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    pass
"""
CONFIG = """
[workers]
count = 1
threads = 2
timeout = 0.6
[log]
access = "access.log"
format = "$request_uri $status $body_bytes_sent"
[[route]]
path = "/"
wsgi = "app:app"
[[route]]
path = "/hold"
wsgi = "app:app"
timeout = TIMEOUT
"""
PINNED = '[[route]]\npath = "/asgi"\nasgi = "app:asgi"\n'


def site(serve: Serve, pinned: bool, timeout: float) -> Server:
    return serve(CONFIG.replace("TIMEOUT", str(timeout)) + (PINNED if pinned else ""), {"app.py": APP})


def begin(server: Server, target: str) -> socket.socket:
    """A client that has got the beginning."""
    client = server.connect()
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    received = b""
    while not received.endswith(b"begin\r\n"):
        piece = client.recv(1000)
        assert piece, received
        received += piece
    return client


def recorded(server: Server, line: str) -> None:
    path = server.directory / "access.log"
    eventually(lambda: line in path.read_text().splitlines(), what=lambda: f"{line} in {path.read_text()}")


@pytest.mark.parametrize("pinned", [False, True])
def test_a_transfer_that_takes_longer_than_the_timeout_arrives_whole(serve: Serve, pinned: bool) -> None:
    server = site(serve, pinned, timeout=0)
    worker = server.get("/").body
    assert server.get("/clone").body == b"pack" * 6 + worker
    recorded(server, f"/clone 200 {6 * len(b'4_|pack_|') + len(worker) + len(b'5_|_|0_|_|')}")
    assert "has taken more" not in server.stderr
    client = begin(server, "/hold?gate")
    server.signal(signal.SIGTERM)  # and a stop waits for it
    (server.directory / "gate").touch()
    with client:
        assert read_all(client).endswith(b"0\r\n\r\n")
    assert server.wait_exit() == 0


@pytest.mark.parametrize("pinned", [False, True])
def test_a_call_that_is_stuck_behind_a_write_is_cut_and_told_of_and_its_worker_replaced(
    serve: Serve, pinned: bool
) -> None:
    server = site(serve, pinned, timeout=0.3)
    old = server.get("/").body
    with begin(server, "/hold?never") as client:
        assert read_all(client) == b""  # and no 504 in the midst of it
    server.wait_log(r"error: GET /hold\?never has taken more than 0\.3 s, and is at")
    server.wait_log(r'app\.py", line \d+, in hold')
    server.wait_log(r"error: GET /hold\?never failed: ApplicationError\('no more of the response for 0\.3 s'\)")
    recorded(server, "/hold?never 200 10")
    eventually(lambda: server.get("/").body != old, 10)
