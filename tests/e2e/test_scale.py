"""Scaling at run time, by `prefork scale`, by TTIN and TTOU, by HUP: so many workers, and no request is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, Clients, answer, begin, command, open_gate, pids, serving, states, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

BROKEN = "raise RuntimeError('not today')\n"


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    return serve_module(PAIR, {"app.py": APP})


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server of two workers, as each test finds it."""
    yield shared
    (shared.directory / "app.py").write_text(APP)
    assert command(shared, "scale", count=2)["ok"]
    wait_workers(shared, 2)


def wait_workers(server: Server, count: int) -> None:
    """Until so many serve, and nobody else is there."""
    eventually(lambda: states(server) == ["serving"] * count, 10, what=lambda: f"{count} workers: {states(server)}")
    assert status(server)["master"]["workers"] == len(pids(server)) == count


def test_scale_returns_when_the_new_workers_serve_and_keeps_the_old(server: Server) -> None:
    before = pids(server)
    done = server.command("scale", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "serves with 4 workers" in done.stdout
    wait_workers(server, 4)
    assert before < pids(server)
    for pid in pids(server):
        assert status(server)["master"]["generation"] == 1, pid


def test_fewer_workers_are_those_who_were_there_first(server: Server) -> None:
    before = pids(server)
    assert command(server, "scale", count=4)["ok"]
    assert command(server, "scale", count=1)["message"].endswith("serves with 1 worker")
    wait_workers(server, 1)
    assert pids(server) < before


def test_ttin_and_ttou_change_the_number_by_one_each(server: Server) -> None:
    for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3)):
        server.signal(number)
        eventually(lambda count=count: status(server)["master"]["workers"] == count, what=f"{count} workers")
        wait_workers(server, count)


def test_the_last_worker_stays_whatever_ttou_says(server: Server) -> None:
    assert command(server, "scale", count=1)["ok"]
    server.signal(signal.SIGTTOU)
    assert command(server, "scale", count=1)["ok"]  # granted after the signal
    wait_workers(server, 1)
    assert server.get().status == 200


@pytest.mark.parametrize("count", [0, -1, 1025, "many", True, 2.5, None])
def test_a_number_that_makes_no_sense_changes_nothing(server: Server, count: object) -> None:
    before = pids(server)
    refused = command(server, "scale", count=count)
    assert refused["ok"] is False
    assert "from 1 to 1024" in refused["message"]
    assert pids(server) == before


def test_workers_that_cannot_boot_leave_the_number_as_it_was_and_the_reason_is_told(server: Server) -> None:
    before = pids(server)
    (server.directory / "app.py").write_text(BROKEN)
    done = server.command("scale", "4")
    assert (done.returncode, done.stdout) == (1, "")
    assert "RuntimeError: not today" in done.stderr
    assert "scale failed, so all stays as it was" in done.stderr
    eventually(lambda: pids(server) == before, what="the old workers alone")
    server.wait_log("change of the number of workers failed, so all stays as it was: .*not today")
    (server.directory / "app.py").write_text(APP)
    assert command(server, "scale", count=3)["ok"]
    wait_workers(server, 3)


def test_workers_added_are_replaced_when_they_die_and_those_dismissed_are_not(server: Server) -> None:
    before = pids(server)
    assert command(server, "scale", count=3)["ok"]
    (added,) = (worker for worker in server.workers() if worker.pid not in before)
    added.kill()
    server.wait_log(f"worker {added.pid} died: SIGKILL")
    wait_workers(server, 3)
    assert before < pids(server)
    assert command(server, "scale", count=2)["ok"]
    wait_workers(server, 2)
    assert pids(server) == before


def test_a_reload_goes_by_the_configuration_again(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    assert command(server, "scale", count=3)["ok"]
    assert command(server, "reload")["ok"]
    wait_workers(server, 1)
    server.rewrite(CONFIG.replace("count = 1", "count = 3"))
    server.signal(signal.SIGHUP)
    eventually(lambda: status(server)["master"]["workers"] == 3)
    wait_workers(server, 3)


def test_a_worker_that_is_too_many_finishes_its_request(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP.replace('b"done"', "str(os.getpid()).encode()")})
    calls = [begin(server, "/wait") for _ in range(2)]
    assert command(server, "scale", count=1)["ok"]
    eventually(lambda: sorted(states(server)) == ["draining", "serving"])
    open_gate(server)
    assert all(answer(call).isdigit() for call in calls)
    for call in calls:
        call.close()
    wait_workers(server, 1)


def test_no_request_is_lost_while_the_number_changes_up_and_down(server: Server) -> None:
    with Clients(server) as clients:
        for count in (4, 1):
            assert command(server, "scale", count=count)["ok"]
            clients.wait_answers(50)


def test_a_change_that_is_asked_for_while_a_reload_goes_on_comes_after_it(server: Server) -> None:
    generation = status(server)["master"]["generation"]
    server.signal(signal.SIGHUP)
    assert command(server, "scale", count=3)["ok"]
    assert status(server)["master"]["generation"] == generation + 1
    wait_workers(server, 3)


def test_a_stop_while_new_workers_boot_is_a_stop(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "app.py").write_text("import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n")
    server.signal(signal.SIGTTIN)
    eventually((server.directory / "entered").exists, what="the new worker's import of the application")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    assert server.family() == []


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="no process can be pinned here")
@pytest.mark.parametrize("preload", [False, True])
def test_with_affinity_each_worker_stays_on_a_core_and_its_successor_on_the_same(serve: Serve, preload: bool) -> None:
    allowed = sorted(psutil.Process().cpu_affinity())
    expected = sorted([[allowed[0]], [allowed[1 % len(allowed)]], [allowed[2 % len(allowed)]]])
    keys = f"count = 3\naffinity = true\npreload = {str(preload).lower()}"
    server = serve(CONFIG.replace("count = 1", keys), {"app.py": APP})
    before = eventually(lambda: len(serving(server)) == 3 and serving(server), what="three workers")
    assert sorted(psutil.Process(pid).cpu_affinity() for pid in before) == expected
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(serving(server) - before) == 3, what="three new workers")
    assert sorted(psutil.Process(pid).cpu_affinity() for pid in serving(server)) == expected
    assert sorted(server.master.cpu_affinity()) == allowed
