"""Processes that an application starts as it is imported: they end with who has imported it, and not before."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import answer, begin, open_gate, serving, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, is_alive

APP = """
import atexit, multiprocessing, os, time
manager = multiprocessing.get_context("fork").Manager()
shared = manager.dict()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        open("entered", "w").close()
        while not os.path.exists("gate"):
            time.sleep(0.005)
    shared[environ["PATH_INFO"]] = True
    start_response("200 OK", [])
    return [str(manager._process.pid).encode()]
"""
CONFIG = """
[workers]
count = 2
preload = {preload}
{more}
[[route]]
path = "/"
wsgi = "app:app"
"""
PRELOAD = pytest.mark.parametrize("preload", ["false", "true"])


def managers(server: Server) -> set[int]:
    """The pids of all managers that live: what is of the server, and neither master, template nor worker."""
    return {process.pid for process in server.family()} - {server.master.pid, *(one.pid for one in server.workers())}


@PRELOAD
def test_a_reload_brings_new_ones_and_takes_the_old_ones_along(serve: Serve, preload: str) -> None:
    server = serve(CONFIG.format(preload=preload, more="probation = 0"), {"app.py": APP})
    expected = 1 if preload == "true" else 2
    before = managers(server)
    assert len(before) == expected
    for number in (2, 3):
        assert server.command("reload").returncode == 0
        wait_generation(server, number, 2)
        eventually(lambda: len(managers(server)) == expected)
        assert not managers(server) & before
        assert int(server.get().body) in managers(server)
        before = managers(server)
    if preload == "true":
        (pid,) = before
        server.wait_log(rf"has started processes, which all workers share: SyncManager-\d+ \({pid}\)$")


def test_those_of_a_template_serve_the_next_worker_too(serve: Serve) -> None:
    server = serve(CONFIG.format(preload="true", more="max_requests = 3"), {"app.py": APP})
    (manager,) = managers(server)
    first = serving(server)
    for _ in range(30):
        assert int(server.get().body) == manager
    eventually(lambda: not serving(server) & first, what="other workers")

    def kill() -> bool:
        """A worker that serves; not where it is being replaced, and has just left."""
        try:
            os.kill(min(serving(server)), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            return False
        return True

    eventually(kill, what="a worker to kill")
    assert int(server.get().body) == manager
    eventually(lambda: managers(server) == {manager})
    assert "failed" not in server.stderr
    assert "Exception ignored" not in server.stderr


@PRELOAD
def test_they_are_there_for_as_long_as_an_old_worker_has_a_request(serve: Serve, preload: str) -> None:
    server = serve(CONFIG.format(preload=preload, more="probation = 0"), {"app.py": APP})
    before = managers(server)
    waiting = begin(server, "/wait")
    assert server.command("reload").returncode == 0
    eventually(lambda: 2 in {worker["generation"] for worker in status(server)["workers"]})
    open_gate(server)
    assert int(answer(waiting)) in before
    waiting.close()
    eventually(lambda: not managers(server) & before, what="the end of the old ones")


@PRELOAD
@pytest.mark.parametrize("how", ["", "--now"])
def test_a_stop_leaves_none(serve: Serve, preload: str, how: str) -> None:
    server = serve(CONFIG.format(preload=preload, more=""), {"app.py": APP})
    server.get()
    assert server.command("stop", *how.split()).returncode == 0
    assert server.wait_exit(5) == 0
    assert server.family() == []
    assert "killing it" not in server.stderr


@PRELOAD
@pytest.mark.parametrize(
    ("more", "behind", "said"),
    [
        ("", "1 / 0", "ZeroDivisionError"),
        ("boot_timeout = 0.7", "time.sleep(100)", "not ready within 0.7 s"),
    ],
    ids=["fails", "hangs"],
)
def test_a_boot_that_fails_leaves_none(serve: Serve, preload: str, more: str, behind: str, said: str) -> None:
    server = serve(CONFIG.format(preload=preload, more=more), {"app.py": APP})
    before = managers(server)
    (server.directory / "app.py").write_text(f"{APP}\n{behind}\n")
    failed = server.command("reload")
    assert failed.returncode == 1
    assert said in failed.stderr
    eventually(lambda: managers(server) == before, what="the old ones alone")
    assert int(server.get().body) in before
    assert "killing it" not in server.stderr


def test_a_worker_that_is_ready_leaves_none_where_another_cannot_boot(serve: Serve) -> None:
    server = serve(CONFIG.format(preload="false", more=""), {"app.py": APP})
    before = managers(server)
    (server.directory / "app.py").write_text(f"{APP}\nos.mkdir('taken')\n")
    failed = server.command("reload")
    assert failed.returncode == 1
    assert "FileExistsError" in failed.stderr
    eventually(lambda: managers(server) == before, what="the old ones alone")
    assert "killing it" not in server.stderr


@PRELOAD
def test_a_stop_in_the_midst_of_an_import_leaves_none(serve: Serve, preload: str) -> None:
    hanging = f"{APP}\nopen('entered', 'w').close()\ntime.sleep(100)\n"
    server = serve(CONFIG.format(preload=preload, more=""), {"app.py": hanging}, wait=False)
    eventually((server.directory / "entered").exists, what="the import")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) in (0, 1)
    assert server.family() == []
    assert "killing it" not in server.stderr


@PRELOAD
@pytest.mark.parametrize(
    "swallow",
    [
        "try:\n    wait()\nexcept:\n    pass\n",
        "class Last:\n    __del__ = lambda self: wait()\nlast = Last()\ndel last\n",
    ],
    ids=["except", "finalizer"],
)
def test_nor_does_an_import_in_whose_midst_nothing_comes_through(serve: Serve, preload: str, swallow: str) -> None:
    waiting = "def wait():\n    open('entered', 'w').close()\n    time.sleep(100)\n"
    hanging = f"{APP}\n{waiting}\n{swallow}\ntime.sleep(100)\n"
    server = serve(CONFIG.format(preload=preload, more=""), {"app.py": hanging}, wait=False)
    eventually((server.directory / "entered").exists, what="the import")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) in (0, 1)
    assert server.family() == []
    assert "killing it" not in server.stderr


@PRELOAD
@pytest.mark.parametrize("then", ["open('entered', 'w').close()\ntime.sleep(100)", "1 / 0"], ids=["stopped", "failed"])
def test_programs_that_it_has_started_end_with_an_import_that_does_not_succeed(
    serve: Serve, preload: str, then: str
) -> None:
    source = f"{APP}\nimport subprocess\nsubprocess.Popen(['sleep', '100'])\n{then}\n"
    server = serve(CONFIG.format(preload=preload, more=""), {"app.py": source}, wait=False)
    if "entered" in then:
        eventually((server.directory / "entered").exists, what="the import")
        server.signal(signal.SIGTERM)
    assert server.wait_exit(5) in (0, 1)
    eventually(lambda: not server.family(), what="the end of what was started")
    assert "killing it" not in server.stderr


def test_they_end_with_a_template_whose_master_was_killed(serve: Serve) -> None:
    server = serve(CONFIG.format(preload="true", more=""), {"app.py": APP})
    (manager,) = managers(server)
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), what="the end of workers, template and what that had started")
    assert not psutil.pid_exists(manager) or not is_alive(psutil.Process(manager))


def test_processes_that_would_not_end_by_themselves_end_with_their_template(serve: Serve) -> None:
    source = (
        APP
        + """
def run():
    while True:
        time.sleep(1)

multiprocessing.get_context("fork").Process(target=run, name="poller").start()
"""
    )
    server = serve(CONFIG.format(preload="true", more="probation = 0"), {"app.py": source})
    server.wait_log(r"has started processes, which all workers share: .*poller \(\d+\)")
    before = managers(server)
    assert server.command("reload").returncode == 0
    eventually(lambda: len(managers(server)) == 2 and not managers(server) & before)
    assert "killing it" not in server.stderr


def test_exit_functions_that_do_not_end_are_cut_short(serve: Serve) -> None:
    hanging = f"{APP}\natexit.register(lambda pid=os.getpid(): pid == os.getpid() and time.sleep(100))\n"
    server = serve(CONFIG.format(preload="true", more=""), {"app.py": f"{hanging}manager.shutdown()\n"})
    server.signal(signal.SIGTERM)
    assert server.wait_exit(8) == 0
    assert re.search(r"template \d+ has not ended 2 s after it was told to; killing it", server.stderr)
