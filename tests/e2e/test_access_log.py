"""When lines of the access log are there: soon, in a few writes, and whatever becomes of the worker."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import open_gate
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

APP = """
import os
import sys
import time


def hold():
    open("entered", "w").close()
    while not os.path.exists("gate"):
        time.sleep(0.005)


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Length", "2")])
    if path == "/fork" and not os.fork():
        environ["wsgi.errors"].write("said by the child\\n")
        raise SystemExit("words of the child")
    if path == "/exit":
        os._exit(3)
    if path == "/exec":
        os.execvp("true", ["true"])
    return [b"ok"]


async def asgi(scope, receive, send):
    if scope["path"] == "/hold":
        hold()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
WORKERS = """
[workers]
count = 1
MORE
[log]
access = "ACCESS"
format = "$request_uri"
"""
WSGI = f'{WORKERS}[[route]]\nwsgi = "app:wsgi"\n'
ASGI = f'{WORKERS}[[route]]\nasgi = "app:asgi"\nlifespan = "off"\n'
LATE = 0.1 + 0.2  # seconds: the bound, and what a busy machine may take


def started(serve: Serve, config: str, access: str = "access.log", more: str = "") -> Server:
    return serve(config.replace("ACCESS", access).replace("MORE", more), files={"app.py": APP})


def lines(server: Server) -> list[str]:
    return (server.directory / "access.log").read_text().split()


def pipeline(*paths: str) -> bytes:
    """Requests of which each is answered before the next one is looked at, and all come at once."""
    return b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths)


@pytest.mark.parametrize("config", [WSGI, ASGI], ids=["wsgi", "asgi"])
def test_the_line_of_a_single_request_is_there_soon(serve: Serve, config: str) -> None:
    server = started(serve, config)
    for number in range(3):
        assert server.get(f"/{number}").status == 200
        answered = time.monotonic()
        eventually(lambda number=number: f"/{number}" in lines(server))
        assert time.monotonic() - answered < LATE


def test_many_requests_take_few_writes(serve: Serve) -> None:
    server = started(serve, WSGI)
    (worker,) = server.workers()
    with server.connect() as client:
        before = writes(worker)
        for _ in range(200):
            client.sendall(pipeline("/"))
            assert client.recv(65536).endswith(b"ok")
    eventually(lambda: len(lines(server)) == 200)
    assert writes(worker) - before < 100


def writes(process: psutil.Process) -> int:
    """How often it has called write(2) so far."""
    counters = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
    return int(counters["syscw"])


def test_a_line_does_not_wait_for_a_loop_that_an_application_holds_up(serve: Serve) -> None:
    server = started(serve, ASGI)
    with server.connect() as client:
        client.sendall(pipeline("/first", "/hold"))
        eventually((server.directory / "entered").exists)
        eventually(lambda: lines(server) == ["/first"], within=2)
        open_gate(server)
        while not client.recv(65536).endswith(b"ok"):
            pass
    eventually(lambda: lines(server) == ["/first", "/hold"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_stop_loses_no_line(serve: Serve, number: signal.Signals) -> None:
    server = started(serve, WSGI)
    paths = [f"/{number}" for number in range(20)]
    with server.connect() as client:
        client.sendall(pipeline(*paths))
        received = b""
        while received.count(b"ok") < len(paths):
            received += client.recv(65536)
        server.signal(number)
    assert server.wait_exit() == 0
    assert lines(server) == paths


def test_a_worker_that_leaves_loses_no_line(serve: Serve) -> None:
    server = started(serve, WSGI, more="max_requests = 10")
    (worker,) = server.workers()
    for number in range(20):
        assert server.get(f"/{number}").status == 200
    eventually(lambda: not worker.is_running(), what="the end of the first worker")
    eventually(lambda: sorted(lines(server)) == sorted(f"/{number}" for number in range(20)))


def test_a_process_that_an_application_forks_repeats_no_line(serve: Serve) -> None:
    """Not even where it logs errors, before which the worker's lines are written where both logs are one."""
    server = started(serve, WSGI, access="-")
    with server.connect() as client:
        client.sendall(pipeline("/first", "/fork") + b"GET /last HTTP/1.0\r\n\r\n")
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 3
    server.wait_log("application: said by the child")
    server.wait_log("words of the child")
    server.wait_log("^/last$")
    assert [line for line in server.stderr.splitlines() if line.startswith("/")] == ["/first", "/fork", "/last"]
