"""Reloads to code that imports well and crashes with its first requests: the old workers come back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, NEW, PAIR, Clients, answer, begin, open_gate, pids, states, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import CONFIG as CONFIG_FILE
from tests.e2e.harness import Server

CONFIG = PAIR.replace("probation = 0.1", "probation = 5")
CRASHING = NEW.replace("VERSION.encode()", "os._exit(3)")


@contextmanager
def undaunted(server: Server) -> Iterator[list[bytes]]:
    """A client that asks for "/version" again and again, whatever becomes of it; the answers that it got."""
    answers: list[bytes] = []
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            try:
                answers.append(server.get("/version").body)
            except OSError:
                continue

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_workers_that_crash_with_their_first_requests_are_rolled_back_and_the_next_reload_may_do(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    before, descriptors = pids(server), server.master.num_fds()
    (server.directory / "app.py").write_text(CRASHING)
    with undaunted(server):
        failed = server.command("reload")
    assert failed.returncode == 1
    why = "reload failed, so all stays as it was: the new workers crash with their first requests: worker "
    assert why in failed.stderr
    assert "died: exit status 3" in failed.stderr
    server.wait_log(f"error: {why}")
    told = status(server)
    assert (told["master"]["generation"], told["last_reload"]["ok"]) == (1, False)
    eventually(lambda: pids(server) == before, what="the old workers alone")
    eventually(lambda: states(server) == ["serving"] * 2)
    eventually(lambda: server.master.num_fds() <= descriptors)
    with Clients(server) as clients:
        clients.wait_answers(50)
        (server.directory / "app.py").write_text(APP)
        assert server.command("reload").returncode == 0
        clients.wait_answers(50)
    eventually(lambda: before.isdisjoint(pids(server)), what="the end of the old workers")
    server.get("/version")


def test_a_worker_that_dies_while_it_stands_by_is_replaced_when_the_others_come_back(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    before = pids(server)
    (server.directory / "app.py").write_text(CRASHING)
    server.signal(signal.SIGHUP)
    eventually(lambda: states(server).count("draining") == 2, 10, what="old workers that stand by")
    psutil.Process(min(before)).kill()
    eventually(lambda: len(before & pids(server)) == 1)
    assert len(pids(server)) == 3
    with undaunted(server):
        server.wait_log("reload failed, so all stays as it was")
    eventually(lambda: states(server) == ["serving"] * 2 and len(before & pids(server)) == 1, 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_trial_ends_both_generations(serve: Serve, number: signal.Signals) -> None:
    server = serve(CONFIG, {"app.py": APP})
    command = [sys.executable, "-m", "prefork", "reload", "-c", CONFIG_FILE]
    with subprocess.Popen(command, cwd=server.directory, env=server.env, stderr=subprocess.PIPE) as reload:
        eventually(lambda: states(server).count("draining") == 2, 10, what="old workers that stand by")
        server.signal(number)
        assert server.wait_exit(3) == 0
        reload.communicate()
        assert reload.returncode == 1
    assert server.family() == []


def test_a_busy_generation_has_passed_before_the_probation_is_over(serve: Serve) -> None:
    server = serve(CONFIG.replace("= 5", "= 1000"), {"app.py": APP})
    with Clients(server):
        assert server.command("reload").returncode == 0
    wait_generation(server, 2, workers=2)


BLOCKING = """
import os, time

async def app(scope, receive, send):
    if scope["path"] == "/block":
        open("entered", "w").close()
        while not os.path.exists("gate"):
            time.sleep(0.005)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""


def test_a_worker_whose_loop_is_held_up_while_it_is_told_to_stand_by_and_to_come_back_serves_on(serve: Serve) -> None:
    config = CONFIG.replace("count = 2", "count = 1").replace("wsgi =", 'lifespan = "off"\nasgi =')
    server = serve(config, {"app.py": BLOCKING})
    (before,) = pids(server)
    with closing(begin(server, "/block")) as held:
        (server.directory / "app.py").write_text(BLOCKING.replace('b"%d" % os.getpid()', "os._exit(3)"))
        with undaunted(server):
            assert server.command("reload").returncode == 1
        open_gate(server)
        assert answer(held) == b"%d" % before
    eventually(lambda: states(server) == ["serving"])
    assert server.get("/").body == b"%d" % before
    assert pids(server) == {before}
