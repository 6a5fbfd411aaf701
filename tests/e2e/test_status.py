"""`prefork status` of a server that is busy: the longest request of each worker, told even where its loop is stuck."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from tests.conftest import eventually
from tests.e2e.apps import ALONE, APP, CONFIG, PAIR, answer, begin, command, open_gate, serving, states, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import suspend

BLOCKING = '''
import os, time

async def app(scope, receive, send):
    """Blocks its worker's loop, as no application should."""
    open("entered", "w").close()
    while not os.path.exists("gate"):
        time.sleep(0.005)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
'''
ASGI = ALONE + '[[route]]\npath = "/"\nasgi = "app:app"\nlifespan = "off"\n'


@pytest.mark.parametrize(("config", "app"), [(CONFIG, APP), (ASGI, BLOCKING)], ids=["a thread", "a loop that is stuck"])
def test_the_request_that_takes_longest_is_told_with_its_age(serve: Serve, config: str, app: str) -> None:
    server = serve(config, {"app.py": app})
    with_call = begin(server, "/wait?a=%1b")
    (worker,) = status(server)["workers"]
    assert worker["answers"] is True
    assert worker["longest"]["request"] == "GET /wait?a=%1b"
    assert 0 <= worker["longest"]["age"] < 5
    later = eventually(lambda: status(server)["workers"][0]["longest"]["age"] > worker["longest"]["age"])
    assert later
    table = server.command("status").stdout
    assert "s GET /wait?a=%1b\n" in table
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    assert eventually(lambda: status(server)["workers"][0]["longest"] is None)


def test_a_worker_that_is_killed_when_its_time_is_over_is_named_with_what_it_was_at(serve: Serve) -> None:
    server = serve(ASGI.replace("[log]", "graceful_timeout = 0.2\n[log]"), {"app.py": BLOCKING})
    with_call = begin(server, "/wait")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    server.wait_log(r"has not ended 1\.2 s after it was told to; killing it, which is at GET /wait$")
    with_call.close()


def test_what_a_leaving_worker_is_still_at_is_told(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with_call = begin(server, "/wait")
    assert command(server, "reload")["ok"]
    eventually(lambda: len(serving(server)) == 1)
    told = {worker["state"]: worker["longest"] for worker in status(server)["workers"]}
    assert told["draining"]["request"] == "GET /wait"
    assert told["serving"] is None
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()


def test_a_worker_that_is_stopped_does_not_answer_and_the_others_are_told_all_the_same(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    victim = server.workers()[0]
    suspend(victim)
    try:
        told = {worker["pid"]: worker for worker in status(server)["workers"]}
        shown = server.command("status")
        assert "(it does not answer)" in shown.stdout
        assert "1 of 2 serve, 1 stopped" in shown.stdout
        assert shown.returncode == 0
    finally:
        victim.resume()
    assert [worker["pid"] for worker in told.values() if not worker["answers"]] == [victim.pid]
    assert told[victim.pid]["memory"] > 1 << 20
    assert {worker["state"] for worker in told.values()} == {"serving", "stopped"}
    eventually(lambda: states(server) == ["serving"] * 2)


def test_a_worker_whose_loop_does_not_turn_is_not_said_to_serve(serve: Serve) -> None:
    server = serve(ASGI, {"app.py": BLOCKING})
    with_call = begin(server, "/wait")
    eventually(lambda: states(server) == ["stuck"])
    told = status(server)
    assert (told["ready"], told["serving"]) == (False, 0)
    shown = server.command("status")
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "NONE SERVES: 0 of 1 workers, 1 stuck" in shown.stdout
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    eventually(lambda: status(server)["ready"])


def test_a_crash_loop_is_told_with_its_deaths_their_reason_and_the_next_attempt(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    assert status(server)["deaths"] == {"count": 0, "last": None}
    (server.directory / "app.py").write_text("import a_module_that_went_away")
    for worker in server.workers():
        worker.kill()
    told = eventually(lambda: (told := status(server))["next_attempt"] and not told["workers"] and told)
    assert (told["ready"], told["serving"], told["workers"]) == (False, 0, [])
    assert told["deaths"]["count"] >= 4
    assert "cannot boot: ModuleNotFoundError: No module named 'a_module" in told["deaths"]["last"]["reason"]
    assert -1 < told["next_attempt"] - told["deaths"]["last"]["at"] < 3
    shown = server.command("status")
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "NONE SERVES: 0 of 2 workers" in shown.stdout
    assert "No module named" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert server.command("status", "--json").returncode == 1
    (server.directory / "app.py").write_text(APP)
    eventually(lambda: status(server)["serving"] == 2, 10, what="both workers")
    assert server.command("status").returncode == 0


def test_a_server_whose_workers_were_drained_does_not_serve_and_says_why(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.signal(signal.SIGWINCH)
    eventually(lambda: not status(server)["workers"], what="the end of the worker")
    shown = server.command("status")
    assert shown.returncode == 1
    assert "NONE SERVES: 0 of 1 workers; they have been told to leave" in shown.stdout


def test_when_a_reload_failed_and_why_is_told_with_the_traceback(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    assert status(server)["last_reload"] is None
    (server.directory / "app.py").write_text("raise RuntimeError('not today\\x1b[31m')")
    server.signal(signal.SIGHUP)
    last = eventually(lambda: status(server)["last_reload"])
    assert last["ok"] is False
    assert "not today" in last["message"]
    assert "Traceback" in last["report"]
    shown = server.command("status").stdout
    assert "FAILED: worker" in shown
    assert "not today" in shown
    assert "\x1b" not in shown
    (server.directory / "app.py").write_text(APP)
    assert command(server, "reload")["ok"]
    assert status(server)["last_reload"]["report"] == ""
    assert stat.S_IMODE(os.stat(server.directory / "run/prefork.sock").st_mode) == 0o600
