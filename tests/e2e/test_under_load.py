"""Signals while the server is busy: nobody who asked goes without an answer."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.conftest import eventually, needs
from tests.e2e.apps import CONFIG
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, suspend

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"hello" * 20

APP = f"""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [{BODY!r}]
"""


def start(serve: Serve, count: int = 2, connections: int = 4096) -> Server:
    config = CONFIG.replace("count = 1", f"count = {count}\nconnections = {connections}")
    return serve(config, files={"app.py": APP})


def wrk(server: Server, during: Callable[[], None]) -> str:
    """What wrk reports of 64 keep-alive connections that were at it before, `during` and after something happens."""
    url = f"http://127.0.0.1:{server.port}/"
    command = ["wrk", "-t1", "-c64", "-d50", "--timeout", "30", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        try:
            eventually(lambda: connections(server) >= 64, 15, what="wrk at work")
            during()
            with suppress(subprocess.TimeoutExpired):
                load.wait(0.5)  # and after
            load.send_signal(signal.SIGINT)  # it reports early
            return load.communicate(timeout=15)[0]
        finally:
            load.kill()


def connections(server: Server) -> int:
    """How many clients its workers are connected with."""
    sockets = [socket for worker in server.workers() for socket in worker.net_connections("tcp")]
    return sum(1 for socket in sockets if socket.status == psutil.CONN_ESTABLISHED)


def requests(report: str) -> int:
    found = re.search(r"(\d+) requests in", report)
    assert found, report
    return int(found[1])


def test_five_reloads_under_load_lose_no_request(serve: Serve) -> None:
    needs("wrk")
    server = start(serve)

    def reload_five_times() -> None:
        for generation in range(2, 7):
            server.signal(signal.SIGHUP)
            server.wait_log(f"generation {generation} serves", within=20)
            server.wait_log(f"generation {generation - 1} has left", within=20)

    report = wrk(server, reload_five_times)
    assert requests(report) > 100
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
    assert " error: " not in server.stderr
    eventually(lambda: len(server.workers()) == 2, what="two workers, and none of before")


def test_a_server_recovers_when_its_workers_are_killed_under_load(serve: Serve) -> None:
    needs("wrk")
    server = start(serve)
    before = server.workers()

    def kill_both() -> None:
        for worker in before:
            worker.kill()
            server.wait_log(f"worker {worker.pid} died: SIGKILL")

    assert requests(wrk(server, kill_both)) > 100
    after = eventually(lambda: len(server.workers()) == 2 and server.workers())
    assert not set(before) & set(after)
    assert [server.get().body for _ in range(20)] == [BODY] * 20


def test_clients_in_the_queue_of_a_leaving_worker_are_served(serve: Serve) -> None:
    server = start(serve, count=1)
    (worker,) = server.workers()
    suspend(worker)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(REQUEST)
        worker.terminate()
        worker.resume()
        for client in clients:
            assert client.recv(65536).endswith(BODY)
            assert client.recv(65536) == b""


def test_clients_who_wait_for_room_in_a_leaving_worker_are_served(serve: Serve) -> None:
    server = start(serve, count=1, connections=1)
    (worker,) = server.workers()
    with ExitStack() as stack:
        inside = stack.enter_context(server.connect())
        inside.sendall(REQUEST[:20])  # half a head: an idle connection would make room
        eventually(lambda: connections(server) == 1, what="a client inside")
        clients = [stack.enter_context(server.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(REQUEST)
        suspend(worker)
        worker.terminate()
        inside.close()
        worker.resume()
        for client in clients:
            assert client.recv(65536).endswith(BODY)


def test_nobody_is_let_into_a_queue_that_no_one_serves(serve: Serve) -> None:
    server = start(serve, count=1)
    with server.connect() as busy:
        busy.sendall(REQUEST[:20])  # half a head: the worker waits for the rest of it before it leaves
        assert server.get().status == 200
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server), what="a refusal of new clients")
        busy.sendall(REQUEST[20:])
        assert busy.recv(65536).endswith(BODY)
    assert server.wait_exit() == 0


def is_refused(server: Server) -> bool:
    """Whether connecting fails; who does connect is served."""
    try:
        client = server.connect()
    except ConnectionRefusedError:
        return True
    with client:
        client.sendall(REQUEST)
        assert client.recv(65536).endswith(BODY)
    return False


class Client(threading.Thread):
    """Asks on one connection as long as it lives, then on the next, until nobody lets it in any more.

    `answered` counts; `lost` tells of a request that was not answered though nothing had said that the connection would
    close.
    """

    def __init__(self, server: Server, request: bytes) -> None:
        super().__init__()
        self.server = server
        self.request = request
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        with suppress(ConnectionRefusedError):
            while not self.lost:
                with self.server.connect() as connection:
                    self.converse(connection)

    def converse(self, connection: socket.socket) -> None:
        answer = b""
        while b"\r\nConnection: close\r\n" not in answer and not select.select([connection], [], [], 0)[0]:
            asked = time.monotonic()
            try:
                connection.sendall(self.request)
                answer = connection.recv(65536)
            except OSError as error:
                answer = repr(error).encode()
            if not answer.endswith(BODY):
                self.lost.append(f"{answer!r} after {time.monotonic() - asked:.3f} s")
                return
            self.answered += 1


def wait_for_answers(clients: list[Client], count: int) -> None:
    """Until each of them has had so many more."""
    goals = [client.answered + count for client in clients]
    eventually(
        lambda: all(client.answered >= goal for client, goal in zip(clients, goals, strict=True)),
        within=10,
        what=lambda: f"{count} more answers each: {[(client.answered, client.lost) for client in clients]}",
    )


@pytest.mark.parametrize(
    "request_",
    [REQUEST, REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
    ids=["keep-alive", "a connection each"],
)
def test_reloads_and_a_graceful_stop_lose_no_request(serve: Serve, request_: bytes) -> None:
    server = start(serve)
    clients = [Client(server, request_) for _ in range(8)]
    for client in clients:
        client.start()
    for generation in range(2, 5):
        wait_for_answers(clients, 20)
        server.signal(signal.SIGHUP)
        server.wait_log(f"generation {generation} serves", within=20)
    server.signal(signal.SIGTERM)
    for client in clients:
        client.join(20)
    assert [client.lost for client in clients] == [[]] * len(clients)
    assert server.wait_exit() == 0
