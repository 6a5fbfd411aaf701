"""Deaths: a worker that dies is replaced, one that keeps dying is not in haste, and a dead master is outlived."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, answer, begin, open_gate, pids, serving
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, is_alive, read_all, suspend

DOOMED = f"""
import threading

def fall():
    while not os.path.exists("doom"):
        time.sleep(0.005)
    with open("doom") as doom:
        os.kill(os.getpid(), int(doom.read()))

{APP}
with open("boots", "a") as boots:
    boots.write("x")
threading.Thread(target=fall, daemon=True).start()
"""


def boots(server: Server) -> int:
    return (server.directory / "boots").stat().st_size


@pytest.fixture
def doomed(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose worker keeps dying, in the first second's pause before the next attempt."""
    server = serve(CONFIG, {"app.py": DOOMED})
    (server.directory / "doom.new").write_text(str(int(getattr(request, "param", signal.SIGABRT))))
    (server.directory / "doom.new").rename(server.directory / "doom")
    server.wait_log("the next attempt to replace it in 1 s")
    yield server
    (server.directory / "doom").unlink(missing_ok=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_worker_that_is_killed_is_replaced_and_the_signal_is_named(serve: Serve, number: signal.Signals) -> None:
    server = serve(PAIR, {"app.py": APP})
    victim, survivor = server.workers()
    victim.send_signal(number)
    server.wait_log(rf"error: worker {victim.pid} died: {number.name} \(after \d+ s, \d+ requests\); replacing it")
    eventually(lambda: len(pids(server) - {victim.pid}) == 2, what="a worker in its place")
    assert survivor.pid in pids(server)
    assert server.get().status == 200


def test_a_worker_that_exits_is_replaced_and_its_status_is_named(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": f"import os, sys\n{APP.replace('VERSION.encode()', 'os._exit(5)')}"})
    (victim,) = pids(server)
    with server.connect() as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(1) == b""
    server.wait_log(rf"worker {victim} died: exit status 5")
    eventually(lambda: server.get().status == 200)


def test_all_workers_killed_at_once_are_all_replaced_and_no_zombie_is_left(serve: Serve) -> None:
    server = serve(PAIR.replace("count = 2", "count = 4"), {"app.py": APP})
    before = pids(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(pids(server) - before) == 4, what="four new workers")
    assert {child.pid for child in server.master.children()} == pids(server)
    assert server.get().status == 200


def test_a_client_that_waits_in_the_accept_queue_of_a_killed_worker_is_answered_by_the_next(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (worker,) = server.workers()
    suspend(worker)
    with server.connect() as connection:
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        worker.kill()
        assert read_all(connection).endswith(b"one")


@pytest.mark.parametrize("doomed", [signal.SIGABRT, signal.SIGKILL], indirect=True)
def test_a_worker_that_keeps_dying_young_is_replaced_ever_later(doomed: Server) -> None:
    used = doomed.master.cpu_times().user
    doomed.wait_log("the next attempt to replace it in 2 s")
    assert boots(doomed) == 3  # the first, the one that took its place at once, the one a second later
    assert doomed.master.cpu_times().user - used < 0.5
    assert doomed.master.children() == []


def test_a_url_that_kills_its_worker_is_no_outage_for_the_others(serve: Serve) -> None:
    """Workers that had booted and met clients are replaced at once: a pause would be an outage for all."""
    deadly = APP.replace('if path == "/stream"', 'if path == "/die":\n        os.abort()\n    if path == "/stream"')
    server = serve(PAIR, {"app.py": deadly})
    for number in range(1, 9):
        with suppress(OSError, HTTPException):
            server.get("/die")
        assert server.get("/version").body == b"one"
        eventually(lambda number=number: server.stderr.count("died: SIGABRT") == number)
        eventually(lambda: len(serving(server)) == 2, 2, what="two workers")
    assert "next attempt" not in server.stderr


def test_a_request_that_kills_its_worker_takes_nobody_else_with_it(serve: Serve) -> None:
    """All of them wait in the accept queue, and a worker answers who came first before it accepts the next one."""
    deadly = APP.replace('if path == "/stream"', 'if path == "/die":\n        os.abort()\n    if path == "/stream"')
    server = serve(CONFIG, {"app.py": deadly})
    (worker,) = server.workers()
    suspend(worker)
    with ExitStack() as clients:
        asked = []
        for path in ["/version", "/version", "/die"] * 4:
            asked.append((path, clients.enter_context(server.connect())))
            asked[-1][1].sendall(b"GET %s HTTP/1.0\r\n\r\n" % path.encode())
        worker.resume()
        for path, client in asked:
            answer = b""
            with suppress(ConnectionError):
                answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 ") == (path == "/version"), (path, answer)


def test_a_stop_does_not_wait_for_the_next_attempt_nor_make_it(doomed: Server) -> None:
    count = boots(doomed)
    doomed.signal(signal.SIGTERM)
    assert doomed.wait_exit(5) == 0
    assert boots(doomed) == count
    assert doomed.family() == []


def test_a_reload_ends_the_attempts_of_the_old_generation(doomed: Server) -> None:
    (doomed.directory / "app.py").write_text(APP)
    assert doomed.command("reload").returncode == 0
    doomed.wait_log("generation 1 has left")
    (worker,) = pids(doomed)
    assert doomed.get().body == str(worker).encode()
    assert boots(doomed) == 2


def test_a_worker_that_cannot_boot_any_more_is_told_of_and_recovers_with_the_application(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    victim, survivor = server.workers()
    (server.directory / "app.py").write_text("import a_module_that_went_away\n")
    victim.kill()
    server.wait_log(r"error: worker \d+ cannot boot: ModuleNotFoundError")
    server.wait_log(r"^    .*import a_module_that_went_away")
    assert server.get().body == str(survivor.pid).encode()
    (server.directory / "app.py").write_text(APP)
    eventually(lambda: len(pids(server)) == 2, 10, what="a second worker")


def test_a_traceback_is_told_once_while_workers_fail_alike_and_their_end_too(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    (server.directory / "app.py").write_text("import a_module_that_went_away\n")
    for worker in server.workers():
        worker.kill()
    server.wait_log("the next attempt to replace it in 1 s")
    server.wait_log(r"cannot boot: ModuleNotFoundError: .* \(with the same traceback as before\)$")
    assert server.stderr.count("Traceback") == 1
    (server.directory / "app.py").write_text(APP)
    server.wait_log(r"info: worker \d+ serves: workers boot again$", 10)
    assert server.stderr.count("boot again") == 1


def test_workers_outlive_a_killed_master_until_their_requests_are_finished_and_then_leave(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with_call = begin(server, "/wait")
    orphans = server.workers()
    server.process.kill()
    server.process.wait()
    eventually(lambda: sum(map(is_alive, orphans)) == 1, what="the end of the idle worker")
    server.wait_log("the master is gone; draining")
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    eventually(lambda: not server.family(), what="the end of the other one")
    server.launch()
    server.wait_ready()
    assert server.get("/version").body == b"one"


def test_a_thread_of_the_applications_that_never_ends_does_not_keep_an_orphaned_worker(serve: Serve) -> None:
    endless = f"import threading\nthreading.Thread(target=threading.Event().wait).start()\n{APP}"
    server = serve(CONFIG.replace("[log]", "graceful_timeout = 0.1\n[log]"), {"app.py": endless})
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), 10, what="the end of the worker")
    server.wait_log("the master is gone; draining")


def test_workers_that_boot_while_the_master_is_killed_leave_too(serve: Serve) -> None:
    slow = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"
    server = serve(PAIR, {"app.py": slow}, wait=False)
    eventually((server.directory / "entered").exists, what="the application's import")
    server.process.kill()
    server.process.wait()
    (server.directory / "go").touch()
    eventually(lambda: not server.family(), what="the end of both workers")


def test_an_applications_own_children_are_its_own_affair(serve: Serve) -> None:
    source = f"""
import signal, subprocess
{APP.replace("VERSION.encode()", "run()")}
def run():
    script = "trap 'exit 3' TERM; kill -TERM $$"
    done = subprocess.run(["sh", "-c", script])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return f"{{done.returncode}} {{blocked}}".encode()
"""
    server = serve(CONFIG, {"app.py": source})
    assert server.get("/version").body == b"3 set()"
    assert psutil.Process(server.process.pid).children(recursive=True) == server.workers()
