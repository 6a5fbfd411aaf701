"""What an application does when its client is served or gone: it is finished before a worker leaves, or told of."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

APP = r"""
import os, time

def hold(name):
    with open(name + ".in", "a"):
        pass
    while not os.path.exists(name):
        time.sleep(0.005)
    with open(name + ".done", "a"):
        pass

class Pieces:
    def __init__(self, name):
        self.name = name
        self.pieces = iter([b"one", b"two"])

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(0.02)
        return next(self.pieces)

    def close(self):
        hold(self.name)

def generator(name):
    try:
        yield b"one"
        hold(name + "0")
        yield b"two"
    finally:
        hold(name)

def app(environ, start_response):
    path, name = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/fail":
        hold(name)
        raise ValueError("the late cause")
    start_response("200 OK", [])
    if path == "/close":
        return Pieces(name)
    if path.endswith("/generator"):
        return generator(name)
    return [str(os.getpid()).encode()]

async def asgi(scope, receive, send):
    pass
"""
CONFIG = """
[workers]
count = 1
threads = 2
{more}
[[route]]
path = "/"
wsgi = "app:app"
[[route]]
path = "/patient"
wsgi = "app:app"
timeout = 0
"""
PINNED = '[[route]]\npath = "/asgi"\nasgi = "app:asgi"\n'


def site(serve: Serve, more: str = "", pinned: bool = False) -> Server:
    return serve(CONFIG.format(more=more) + (PINNED if pinned else ""), {"app.py": APP})


def at_work(server: Server, name: str) -> None:
    eventually((server.directory / f"{name}.in").exists, 10)


def accepts(server: Server) -> bool:
    try:
        server.connect(1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("pinned", [False, True])
def test_a_close_is_finished_before_the_worker_leaves(serve: Serve, pinned: bool) -> None:
    server = site(serve, pinned=pinned)
    assert server.get("/close?c").body == b"onetwo"
    at_work(server, "c")
    server.signal(signal.SIGTERM)
    eventually(lambda: not accepts(server), 10)
    (server.directory / "c").touch()
    assert server.wait_exit() == 0
    assert (server.directory / "c.done").exists()


def test_the_end_of_a_generator_whose_client_has_gone_is_finished_before_the_worker_leaves(serve: Serve) -> None:
    server = site(serve)
    with server.connect() as client:
        client.sendall(b"GET /generator?g HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100)
        at_work(server, "g0")
    server.signal(signal.SIGTERM)
    (server.directory / "g0").touch()
    at_work(server, "g")
    (server.directory / "g").touch()
    assert server.wait_exit() == 0
    assert (server.directory / "g.done").exists()


def test_a_close_that_does_not_end_is_named_when_the_worker_leaves(serve: Serve) -> None:
    server = site(serve, "graceful_timeout = 0.5")
    assert server.get("/close?c").body == b"onetwo"
    at_work(server, "c")
    server.signal(signal.SIGTERM)
    server.wait_log(r"not done within 0\.5 s: GET /close\?c")
    assert server.wait_exit() == 0


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("path", ["/close?stuck", "/generator?stuck"])
def test_a_thread_stuck_without_a_client_is_told_of_and_its_worker_replaced(
    serve: Serve, path: str, pinned: bool
) -> None:
    server = site(serve, "timeout = 0.5", pinned)
    old = server.get("/").body
    (server.directory / "stuck0").touch()
    with server.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.recv(100)
        at_work(server, "stuck")
    server.wait_log(rf"GET {path.replace('?', '.')} has taken more than 0\.5 s, and is at")
    server.wait_log(r'app\.py", line \d+, in hold')
    eventually(lambda: server.get("/").body != old, 10)
    eventually(lambda: [worker.pid for worker in server.workers()] == [int(server.get("/").body)], 10)


@pytest.mark.parametrize("pinned", [False, True])
def test_a_call_that_fails_after_its_504_is_logged_with_its_stack(serve: Serve, pinned: bool) -> None:
    server = site(serve, "timeout = 0.3", pinned)
    with server.connect() as holder:  # keeps the worker from leaving
        holder.sendall(b"GET /patient/generator?h HTTP/1.1\r\nHost: a\r\n\r\n")
        at_work(server, "h0")
        assert server.get("/fail?f").status == 504
        (server.directory / "f").touch()
        server.wait_log("ValueError: the late cause")
