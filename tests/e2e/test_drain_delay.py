"""drain_delay: after the word to stop the server serves on, and says to those who ask that it is not ready."""

from __future__ import annotations

import json
import os
import signal
from time import monotonic

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, command, connect, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

DELAY = 1.5
STATUS = '[[route]]\npath = "/status"\nstatus = true\n'


def delayed(serve: Serve, config: str, delay: float = DELAY) -> Server:
    server = serve(config.replace("[log]", f"drain_delay = {delay:g}\n[log]") + STATUS, {"app.py": APP})
    ready = server.get("/status")
    assert (ready.status, json.loads(ready.body)["ready"]) == (200, True)
    return server


def test_readiness_says_no_while_new_and_old_clients_are_served_on(serve: Serve) -> None:
    server = delayed(serve, PAIR, delay=30)
    kept = connect(server)
    kept.request("GET", "/version")
    assert kept.getresponse().read() == b"one"
    server.signal(signal.SIGTERM)
    eventually(lambda: server.get("/status").status == 503, what="503 of the status route")
    assert json.loads(server.get("/status").body)["ready"] is False
    assert status(server)["ready"] is False
    kept.request("GET", "/version")
    response = kept.getresponse()
    assert (response.read(), response.headers["Connection"]) == (b"one", "keep-alive")
    assert server.get("/version").body == b"one"
    kept.close()
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0


def test_workers_that_are_told_to_stop_too_wait_as_the_master_does(serve: Serve) -> None:
    """As by systemd, which sends TERM to every process of a service by default."""
    server = delayed(serve, PAIR)
    told = monotonic()
    for pid in (*pids(server), server.master.pid):
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: server.get("/status").status == 503, what="503 of the status route")
    assert server.get("/version").body == b"one"
    assert server.wait_exit() == 0
    assert monotonic() - told >= DELAY
    assert "died" not in server.stderr


def test_neither_a_reload_nor_a_second_term_waits(serve: Serve) -> None:
    server = delayed(serve, CONFIG, delay=30)
    (before,) = pids(server)
    assert command(server, "reload")["ok"]
    eventually(lambda: len(pids(server)) == 1 and before not in pids(server), what="the end of the old worker")
    assert server.get("/status").status == 200
    server.signal(signal.SIGTERM)
    eventually(lambda: server.get("/status").status == 503, what="503 of the status route")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
