"""`request_buffering = false`: who waits for a body holds a thread, and nothing else; a big one is never in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

APP = """
import hashlib, os, time
from flask import Flask, request

app = Flask(__name__)

@app.get("/")
def hello():
    return "hello"

@app.post("/sum")
def sum():
    digest = hashlib.sha256()
    open("entered", "w").close()
    while piece := request.stream.read(65536):
        digest.update(piece)
    return digest.hexdigest()

@app.post("/stuck")
def stuck():
    request.stream.read(1)
    while not os.path.exists("gate"):
        time.sleep(0.005)
    return "late"
"""
CONFIG = """
[workers]
count = 1
threads = 1
timeout = 0.6
queue_timeout = 0.2
[http]
max_body = "256MiB"
[[route]]
path = "/"
app = "site_of_flask:app"
request_buffering = false
[[route]]
path = "/status"
status = true
"""
HEAD = b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def server(serve: Serve) -> Iterator[Server]:
    """With one thread, one call at a time, which may take no longer than 0.6 s."""
    server = serve(CONFIG, {"site_of_flask.py": APP})
    yield server
    (server.directory / "gate").touch()


def test_a_client_that_takes_its_time_holds_a_thread_and_nothing_else(server: Server) -> None:
    with server.connect() as slow:
        slow.sendall(HEAD % (b"/sum", 8) + b"half")
        eventually((server.directory / "entered").exists)
        for _ in range(4):  # each waits 0.2 s: the slow one is not to be told that it takes too long
            assert server.get("/status").status == 200
            assert server.get("/").status == 503
        slow.sendall(b"half")
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(hashlib.sha256(b"halfhalf").hexdigest().encode())
    assert server.get("/").body == b"hello"


def test_requests_that_wait_for_a_thread_are_answered_as_ever(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(HEAD % (b"/sum", 8) + b"half")
        eventually((server.directory / "entered").exists)
        for client in clients:
            client.sendall(b"half")
        for client in clients:
            status = read_all(client)[:13]
            assert status in (b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")  # 503 where this machine is slow


def test_an_application_that_is_stuck_with_a_body_under_way_is_given_up(server: Server) -> None:
    with server.connect() as client:
        client.sendall(HEAD % (b"/stuck", 8) + b"half")
        assert read_all(client).startswith(b"HTTP/1.1 504 ")
    server.wait_log(re.escape("POST /stuck has taken more than 0.6 s"))
    assert server.get("/status").status == 200


def test_a_chunked_upload_that_is_too_big_for_the_memory_leaves_no_trace_in_it(server: Server) -> None:
    size, piece = 128 << 20, bytes(1 << 20)
    worker = server.workers()[0]
    assert server.get("/").body == b"hello"
    before, most = worker.memory_info().rss, 0
    with server.connect() as client:
        client.sendall(b"POST /sum HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(size // len(piece)):
            client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            most = max(most, worker.memory_info().rss)
        assert not [file.path for file in worker.open_files() if not file.path.endswith(".log")]
        client.sendall(b"0\r\n\r\n")
        answer = read_all(client)
    assert answer.endswith(hashlib.sha256(bytes(size)).hexdigest().encode())
    assert most - before < 8 << 20
