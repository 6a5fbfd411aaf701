"""Processes that are killed under load: what is lost is what they had in hand, and the rest goes on within moments."""

from __future__ import annotations

import os
import signal
import threading
import time
from http.client import HTTPException

from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, connect, pids, serving, states
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CLIENTS = 4
KILLS = 10


class Sufferers:
    """Clients on kept connections that go on after whatever befalls them; `failures` are the requests that were lost,
    by when (monotonic seconds), `answers` those that were not.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answers = 0
        self.failures: list[float] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]

    def __enter__(self) -> Sufferers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def ask(self) -> None:
        connection = connect(self.server)
        while not self.stopping.is_set():
            try:
                connection.request("GET", "/version")
                assert connection.getresponse().read() == b"one"
                self.answers += 1
            except (OSError, HTTPException):
                self.failures.append(time.monotonic())
                connection.close()
        connection.close()


def test_ten_workers_killed_under_load_cost_what_they_had_in_hand_and_are_back_at_once(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with Sufferers(server) as clients:
        for _ in range(KILLS):
            victim = min(serving(server))
            before, asked = len(clients.failures), clients.answers
            os.kill(victim, signal.SIGKILL)
            eventually(lambda victim=victim: len(serving(server) - {victim}) == 2, 2, what="two workers")
            eventually(lambda asked=asked: clients.answers > asked + CLIENTS)
            assert len(clients.failures) - before <= CLIENTS  # nobody has lost more than one
    assert len(serving(server)) == 2
    assert {child.pid for child in server.master.children()} == pids(server) == serving(server)
    assert "next attempt" not in server.stderr  # it is no crash of its own for which a worker is killed
    assert server.stderr.count("died: SIGKILL (") == KILLS


def test_a_killed_master_leaves_no_worker_and_its_port_to_the_next_start(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with Sufferers(server) as clients:
        eventually(lambda: clients.answers > 10)
        server.process.kill()
        server.process.wait()
        eventually(lambda: not server.family(), 5, what="the end of the workers")
        clients.stopping.set()
    again = PAIR.replace("[workers]", f'listen = ["127.0.0.1:{server.port}"]\n[workers]', 1)
    next_one = serve(again, {"app.py": APP})
    next_one.port = server.port
    assert next_one.get("/version").body == b"one"
    assert states(next_one) == ["serving"] * 2
