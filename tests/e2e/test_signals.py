"""Signals: which are obeyed and by whom; none is lost, whatever the starter or the application does to them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, answer, begin, links, open_gate, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, Server

LOGS = PAIR.replace('access = ""', 'error = "logs/error.log"\naccess = "logs/access.log"')


def rotate(server: Server) -> None:
    for name in ("error", "access"):
        (server.directory / f"logs/{name}.log").rename(server.directory / f"logs/{name}.old")


def text(server: Server, name: str) -> str:
    path = server.directory / "logs" / name
    return path.read_text() if path.exists() else ""


def log_of(pid: int) -> set[str]:
    """The names of the log files that process `pid` has open."""
    return {Path(link).name for link in links(pid) if "/logs/" in link}


@pytest.mark.parametrize("by", ["signal", "command"])
def test_usr1_reopens_both_logs_in_the_master_and_in_every_worker(serve: Serve, by: str) -> None:
    server = serve(LOGS, {"app.py": APP, "logs/.keep": ""})
    server.get("/before")
    eventually(lambda: "/before" in text(server, "access.log"))
    rotate(server)
    if by == "signal":
        server.signal(signal.SIGUSR1)
    else:
        assert server.command("reopen").returncode == 0
    for pid in (server.process.pid, *pids(server)):
        eventually(lambda pid=pid: log_of(pid) == {"error.log", "access.log"}, what=f"the new files in {pid}")
    server.get("/after")
    eventually(lambda: "/after" in text(server, "access.log"))
    assert "/after" not in text(server, "access.old")
    victim = server.workers()[0]
    victim.kill()
    eventually(lambda: f"worker {victim.pid} died: SIGKILL" in text(server, "error.log"))
    eventually(lambda: len(pids(server) - {victim.pid}) == 2)
    for pid in pids(server):
        assert log_of(pid) == {"error.log", "access.log"}


def test_a_log_that_cannot_be_reopened_is_written_on_and_told_of(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP, "logs/.keep": ""})
    (server.directory / "logs").rename(server.directory / "gone")
    server.signal(signal.SIGUSR1)
    server.get("/after")
    eventually(lambda: "/after" in (server.directory / "gone/access.log").read_text())
    said = r"error: cannot reopen a log, so the old file stays: \S*logs/access\.log: No such file or directory"
    eventually(lambda: re.search(said, (server.directory / "gone/error.log").read_text()))
    (server.directory / "gone").rename(server.directory / "logs")


def test_reopen_fails_where_a_log_cannot_be_opened_anew(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP, "logs/.keep": ""})
    (server.directory / "logs").rename(server.directory / "gone")
    done = server.command("reopen")
    assert (done.returncode, done.stdout) == (1, "")
    said = r"prefork: cannot reopen a log, so the old file stays: \S*logs/error\.log: No such file or directory; .*\n"
    assert re.fullmatch(said, done.stderr), done.stderr
    (server.directory / "gone").rename(server.directory / "logs")
    assert server.command("reopen").returncode == 0


def test_usr1_during_a_reload_reaches_the_logs_of_the_new_generation_too(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP, "logs/.keep": ""})
    slow = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"
    (server.directory / "app.py").write_text(slow)
    server.signal(signal.SIGHUP)
    eventually((server.directory / "entered").exists, what="the application's import")
    rotate(server)
    server.signal(signal.SIGUSR1)
    eventually((server.directory / "logs/error.log").exists, what="a new error log")
    (server.directory / "go").touch()
    eventually(lambda: "generation 1 has left" in text(server, "error.log"), 10)
    for pid in (server.process.pid, *pids(server)):
        eventually(lambda pid=pid: log_of(pid) == {"error.log", "access.log"}, what=f"the new files in {pid}")


MEANINGLESS = ("SIGUSR2", "SIGWINCH", "SIGPIPE", "SIGCHLD", "SIGTTIN", "SIGTTOU")


def test_a_worker_survives_what_is_none_of_its_business(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (worker,) = server.workers()
    for name in ("SIGHUP", *MEANINGLESS):
        worker.send_signal(signal.Signals[name])
        assert server.get().body == str(worker.pid).encode()
    assert status(server)["master"]["generation"] == 1


def test_the_master_survives_what_means_nothing_to_it(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    before = pids(server)
    for name in ("SIGPIPE", "SIGCHLD"):
        server.signal(signal.Signals[name])
        assert status(server)["ok"] is True
    assert pids(server) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_told_to_leave_finishes_first_and_is_replaced(serve: Serve, number: signal.Signals) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (worker,) = server.workers()
    with_call = begin(server, "/wait")
    worker.send_signal(number)
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    server.wait_log(f"worker {worker.pid} died: exit status 0")
    eventually(lambda: pids(server) - {worker.pid}, what="another worker")
    assert server.get().status == 200


def test_a_stop_is_heard_behind_a_burst_of_signals_while_the_application_is_busy(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (worker,) = server.workers()
    with_call = begin(server, "/wait")
    for number in [signal.SIGUSR1, signal.SIGHUP] * 1000:
        os.kill(worker.pid, number)
        worker.cpu_times()  # takes long enough for the signal to arrive; else the kernel would join it with the next
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    assert server.wait_exit() == 0
    assert "killing it" not in server.stderr


def test_a_burst_of_all_signals_leaves_the_master_in_order(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    for _ in range(200):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            server.signal(number)
    assert server.get().status == 200
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_an_applications_own_handler_does_not_make_a_worker_deaf(serve: Serve) -> None:
    source = f"import signal\nfor n in (1, 2, 3, 10, 15):\n    signal.signal(n, lambda *_: None)\n{APP}"
    server = serve(CONFIG, {"app.py": source})
    with_call = begin(server, "/wait")
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    assert server.wait_exit(5) == 0
    assert "killing it" not in server.stderr


def test_a_signal_of_the_applications_own_that_has_no_name_does_not_make_a_worker_deaf(serve: Serve) -> None:
    heard = "open('entered', 'w').close()"
    source = f"import signal\nsignal.signal(signal.SIGRTMIN + 3, lambda *_: {heard})\n{APP}"
    server = serve(CONFIG, {"app.py": source})
    (worker,) = pids(server)
    os.kill(worker, signal.SIGRTMIN + 3)
    eventually((server.directory / "entered").exists, what="the application's handler")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert "crashed" not in server.stderr
    assert "killing it" not in server.stderr


def test_signals_that_the_starter_blocked_or_ignored_are_obeyed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    careless = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "prefork", "start", "app:app", "--listen", "127.0.0.1:0",
                          "--workers", "1"])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-c", careless]
    with subprocess.Popen(start, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "serving" in process.stdout.readline()
        (worker,) = psutil.Process(process.pid).children()
        worker.kill()
        eventually(lambda: set(psutil.Process(process.pid).children()) - {worker}, what="another worker")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_without_replacing_anybody(serve: Serve, number: signal.Signals) -> None:
    """As Ctrl-C in a terminal is sent, and as some service managers stop: the workers hear of it themselves."""
    server = serve(PAIR, {"app.py": APP})
    os.killpg(server.process.pid, number)
    assert server.wait_exit() == 0
    assert "died" not in server.stderr
    assert "stopped" in server.stderr


@pytest.mark.parametrize(
    "own",
    [
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
        "asyncio.run(hear())",
    ],
)
@pytest.mark.parametrize("preload", ["false", "true"])
def test_what_an_application_does_with_signals_when_it_is_imported_is_its_own_affair(
    serve: Serve, own: str, preload: str
) -> None:
    hear = """
import asyncio, signal, sys

async def hear():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

"""
    server = serve(PAIR.replace("[log]", f"preload = {preload}\n[log]"), {"app.py": f"{hear}{own}\n{APP}"})
    for _ in range(2):
        assert server.get("/version").body == b"one"
        assert server.command("reload").returncode == 0
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    assert "died" not in server.stderr
    assert "killing" not in server.stderr


def test_order_reaches_a_worker_whose_application_has_taken_the_wakeup_descriptor_in_a_request(serve: Serve) -> None:
    """As asyncio does for its own signal handlers; it leaves none behind."""
    app = f"""
import asyncio, signal
{APP.replace('"/version":', '"/hear":').replace("VERSION.encode()", "asyncio.run(hear())")}

async def hear():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
    return b"heard"
"""
    server = serve(PAIR.replace("[workers]", "[workers]\nthreads = 1"), {"app.py": app})  # all calls in the main thread
    for _ in range(20):
        assert server.get("/hear").body == b"heard"
    for number in (2, 3):
        server.signal(signal.SIGHUP)
        server.wait_log(f"generation {number - 1} has left")
        assert server.get("/hear").body == b"heard"
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    assert "killing" not in server.stderr


DEAF = [  # what an application does in a request, before a slow call
    "asyncio.run(hear())",
    "asyncio.run(hear(close=False))",
    "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "[signal.signal(n, lambda *_: None) for n in (1, 2, 3, 10, 15, 64, *range(34, 50))]",
    "signal.set_wakeup_fd(-1)",
]


@pytest.mark.parametrize("how", ["", "--now"])
@pytest.mark.parametrize("own", DEAF)
def test_a_stop_is_obeyed_whatever_an_application_has_done_to_signals(serve: Serve, own: str, how: str) -> None:
    app = f"""
import asyncio, os, signal, time
{APP.replace('"/version":', '"/deaf":').replace("VERSION.encode()", "deafen()")}

async def hear(close=True):
    loop = asyncio.get_running_loop()
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, print)
    if not close:
        loop._close_self_pipe = lambda: None

def deafen():
    {own}
    time.sleep(0.05)  # somebody else leads from here on
    return str(os.getpid()).encode()
"""
    server = serve(CONFIG.replace("[log]", "graceful_timeout = 20\n[log]"), {"app.py": app})
    assert server.get("/deaf").status == 200
    server.command("stop", *how.split(), timeout=5)
    assert server.wait_exit(5) == 0
    assert "killing" not in server.stderr
