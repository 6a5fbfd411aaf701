"""A server that nobody talks to does nothing: it waits in one system call, for as long as it takes."""

from __future__ import annotations

import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import needs
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WATCHED = 3  # seconds
MOST = 5  # wake-ups or system calls meanwhile: 20 in 10 s at the very most, and none as a rule

CONFIG = """
[workers]
count = 1
[[route]]
wsgi = "app:app"
"""

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.fixture
def idle(serve: Serve) -> Iterator[tuple[Server, list[socket.socket]]]:
    """A server that has served five clients, which are connected still, and has come to rest."""
    server = serve(CONFIG, files={"app.py": APP})
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(5)]
        for client in clients * 20:
            client.sendall(REQUEST)
            assert client.recv(65536).endswith(b"hello")
        assert select.select(clients, [], [], 0.5) == ([], [], [])  # what watches over calls goes to sleep
        yield server, clients


def processes(server: Server) -> list[psutil.Process]:
    return [server.master, *server.workers()]


def silence(clients: list[socket.socket]) -> None:
    """Watch the connections for WATCHED seconds, in which nothing is to come."""
    assert select.select(clients, [], [], WATCHED) == ([], [], [])


def test_an_idle_server_is_not_woken_up(idle: tuple[Server, list[socket.socket]]) -> None:
    server, clients = idle
    before = {process.pid: process.num_ctx_switches().voluntary for process in processes(server)}
    assert len(before) == 2
    silence(clients)
    after = {process.pid: process.num_ctx_switches().voluntary for process in processes(server)}
    woken = {pid: after[pid] - before[pid] for pid in before}
    assert all(times <= MOST for times in woken.values()), woken


def test_an_idle_server_makes_no_system_calls(idle: tuple[Server, list[socket.socket]], tmp_path: Path) -> None:
    needs("strace")
    server, clients = idle
    output = tmp_path / "strace"
    pids = [f"--attach={process.pid}" for process in processes(server)]
    with subprocess.Popen(["strace", "-f", "-o", output, *pids], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        for _ in pids:
            said = strace.stderr.readline()
            if "attached" not in said:
                strace.terminate()
                pytest.skip(f"strace cannot attach: {said.strip()}")
        silence(clients)
        clients[0].sendall(REQUEST)
        assert clients[0].recv(65536)
        strace.terminate()
    calls = output.read_text().splitlines()
    request = next(at for at, call in enumerate(calls) if " recvfrom(" in call)  # so it did trace
    threads = sum(process.num_threads() for process in processes(server))  # each in its one call, from the beginning
    assert request <= MOST + threads, calls
