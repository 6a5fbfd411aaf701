"""Preload: workers that are copies of a template, children of the master all the same, and replaced in milliseconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, NEW, PAIR, Clients, links, serving, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, is_alive, suspend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has child subreapers")

CONFIG = PAIR.replace("[log]", "preload = true\n[log]")
SLOW = f"""
import os, threading, time
with open("imports", "a") as imports:
    imports.write(f"{{os.getpid()}}\\n")
time.sleep(0.3)
{APP}
"""


def template(server: Server) -> psutil.Process:
    """The child of the master that is no worker."""
    known = {worker["pid"] for worker in status(server)["workers"]}
    (found,) = [child for child in server.workers() if child.pid not in known]
    return found


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    server = serve_module(CONFIG, {"app.py": SLOW})
    assert imports(server) == [template(server).pid]
    return server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose two workers are copies of a template that has imported the application."""
    (shared.directory / "app.py").write_text(SLOW)
    (shared.directory / "imports").unlink(missing_ok=True)
    yield shared
    eventually(lambda: len(serving(shared)) == 2)


def imports(server: Server) -> list[int]:
    """Who has imported the application."""
    path = server.directory / "imports"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def test_the_application_is_imported_once_and_all_are_the_masters_children(server: Server) -> None:
    one = template(server)
    assert {child.pid for child in server.master.children()} == {one.pid, *serving(server)}
    assert one.children() == []
    assert one.num_threads() == 1
    assert {server.get("/version").body for _ in range(5)} == {b"one"}


def test_a_killed_worker_is_back_before_the_application_could_have_been_imported(server: Server) -> None:
    before = serving(server)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: len(serving(server) - {victim}) == 2)
    assert time.monotonic() - began < 0.3
    server.wait_log(f"worker {victim} died: SIGKILL")
    assert imports(server) == []


def test_a_reload_brings_the_new_code_and_loses_no_request(server: Server) -> None:
    old = template(server)
    with Clients(server) as clients:
        clients.wait_answers(20)
        (server.directory / "app.py").write_text(SLOW + 'VERSION = "one"\n')
        assert server.command("reload").returncode == 0
        clients.wait_answers(20)
    (server.directory / "app.py").write_text(NEW)
    assert server.command("reload").returncode == 0
    wait_generation(server, status(server)["master"]["generation"], workers=2)
    assert server.get("/version").body == b"two"
    assert not is_alive(old)
    assert len(server.workers()) == 3
    (server.directory / "app.py").write_text(SLOW)
    assert server.command("reload").returncode == 0


def test_a_reload_that_fails_tells_why_and_leaves_template_and_workers(server: Server) -> None:
    before = {child.pid for child in server.workers()}
    for source, said in (("1 / 0\n", "ZeroDivisionError"), ("import os\nos._exit(3)\n", "exit status 3")):
        (server.directory / "app.py").write_text(source)
        failed = server.command("reload")
        assert failed.returncode == 1
        assert said in failed.stderr
        assert "template" in failed.stderr
    eventually(lambda: {child.pid for child in server.workers()} == before)
    os.kill(min(serving(server)), signal.SIGKILL)
    eventually(lambda: len(serving(server) - before) == 1, what="a copy of the old code")
    assert {server.get("/version").body for _ in range(10)} == {b"one"}


def test_a_template_that_dies_is_told_of_and_replaced_with_the_next_worker(server: Server) -> None:
    one = template(server)
    one.kill()
    server.wait_log(f"error: template {one.pid} died: SIGKILL; the next worker gets another")
    victim = min(serving(server))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(serving(server) - {victim}) == 2)
    assert imports(server) == [template(server).pid]


def test_a_killed_master_is_outlived_by_nobody(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    family = server.family()
    assert len(family) == 4
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), what="the end of workers and template")


def test_a_template_that_hangs_in_its_import_does_not_outlive_a_killed_master(serve: Serve) -> None:
    source = "import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n"
    server = serve(CONFIG, {"app.py": source}, wait=False)
    eventually((server.directory / "entered").exists, what="the application's import")
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), 2, what="the end of the template")


def test_what_the_whole_group_is_told_and_reopened_logs_reach_the_template(serve: Serve) -> None:
    config = CONFIG.replace('access = ""', 'error = "error.log"\naccess = ""')
    server = serve(config, {"app.py": APP, "chdir/.keep": ""})
    log = server.directory / "error.log"
    log.rename(log.with_suffix(".old"))
    server.signal(signal.SIGUSR1)
    eventually(lambda: all(str(log) in links(child.pid) for child in server.workers()))
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait_exit() == 0
    assert server.family() == []


DAEMON = f"""
{APP.replace("VERSION.encode()", "daemon()")}
def daemon():
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            while not os.path.exists("gate"):
                time.sleep(0.005)
        os._exit(0)
    os.waitpid(child, 0)
    return b"one"
"""


def test_who_is_orphaned_below_a_worker_is_the_masters_to_bury(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": DAEMON})
    before = set(server.master.children())
    server.get("/version")
    eventually(lambda: len(set(server.master.children()) - before) == 1, what="an orphan")
    (server.directory / "gate").touch()
    eventually(lambda: set(server.master.children()) == before, what="its burial")
    eventually(lambda: len(serving(server)) == 2)


ASGI = """
import asyncio, os, threading
threading.Thread(target=threading.Event().wait, name="of-the-application", daemon=True).start()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = os.getpid()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await asyncio.sleep(0.001)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % scope["state"]["started"]})

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [os.getcwd().encode()]
"""


def test_asgi_beside_wsgi_in_surroundings_of_their_own_is_preloaded_too(serve: Serve, tmp_path: Path) -> None:
    config = CONFIG.replace("[log]", 'chdir = "home"\n[log]').replace("wsgi", "asgi")
    server = serve(config + '[[route]]\npath = "/w"\nwsgi = "app:wsgi"\n', {"home/app.py": ASGI})
    assert {int(server.get().body) for _ in range(20)} <= serving(server)
    assert server.get("/w").body == str(tmp_path / "home").encode()
    server.wait_log("threads, which no worker has with preload: of-the-application")


def test_a_reload_that_fails_while_several_workers_are_still_to_be_forked_leaves_none(serve: Serve) -> None:
    server = serve(CONFIG.replace("count = 2", "count = 1"), {"app.py": APP})
    before, descriptors = {child.pid for child in server.workers()}, server.master.num_fds()
    # the copies fail, one after the other, after an import that does not
    broken = ASGI.replace('        scope["state"]', "        raise ValueError\n        scope['state']")
    (server.directory / "app.py").write_text(broken)
    server.rewrite(CONFIG.replace("count = 2", "count = 6").replace("wsgi", "asgi"))
    for _ in range(3):
        failed = server.command("reload")
        assert failed.returncode == 1
        assert "ValueError" in failed.stderr
        eventually(lambda: {child.pid for child in server.workers()} == before, what="the old ones alone")
        eventually(lambda: server.master.num_fds() <= descriptors, what="as many descriptors as before")
    assert "cannot supervise" not in server.stderr
    assert "crashed" not in server.stderr
    assert server.get("/version").body == b"one"


LYING = f"""
import os
import prefork.process.pool.template

def tell_once(*arguments):
    if not os.path.exists("lie"):
        return bear(*arguments)
    with open("lie", "rb") as lie:
        told = lie.read()
    os.unlink("lie")
    return told

bear, prefork.process.pool.template._bear = prefork.process.pool.template._bear, tell_once
{APP}
"""


def test_a_template_that_tells_a_pid_which_is_no_new_child_is_replaced_and_nobody_is_touched(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": LYING})
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        for number, lie in enumerate((b"%d" % bystander.pid, b"0", b"9" * 60, b"%d" % os.getpid(), b"known", b"\xff")):
            (victim, other), one = sorted(serving(server)), template(server)
            (server.directory / "lie").write_bytes(lie if lie != b"known" else b"%d" % other)
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: not (server.directory / "lie").exists(), what="the lie")
            eventually(lambda before=victim: len(serving(server) - {before}) == 2, what="its replacement")
            assert server.get("/version").body == b"one"
            assert other in serving(server)
            if lie != b"\xff":  # which gives a reason why there is none
                assert not is_alive(one)
                assert server.stderr.count("the template sent a malformed message") == number + 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert "cannot supervise" not in server.stderr


def test_a_template_that_does_not_answer_in_time_is_replaced_and_bears_no_worker_that_nobody_knows(
    serve: Serve,
) -> None:
    server = serve(CONFIG.replace("preload", "boot_timeout = 1.5\npreload"), {"app.py": APP})
    (victim, other), one = sorted(serving(server)), template(server)
    suspend(one)
    os.kill(victim, signal.SIGKILL)
    server.wait_log("the template does not answer: timed out")
    eventually(lambda: len(serving(server)) == 2, what="its replacement")
    assert not is_alive(one)
    assert {child.pid for child in server.workers()} == {template(server).pid, *serving(server)}
    assert {int(server.get("/").body) for _ in range(20)} <= serving(server)
    assert other in serving(server)


@pytest.mark.parametrize(
    "at_import",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    ],
)
def test_what_the_import_does_to_signals_keeps_no_template_from_its_work_nor_its_end(
    serve: Serve, at_import: str
) -> None:
    """Such as a library that is to leave no zombies behind, and has whoever ends reaped before the template sees it."""
    server = serve(CONFIG, {"app.py": f"import os, signal\n{at_import}\n{APP}"})
    victim = min(serving(server))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(serving(server) - {victim}) == 2)
    assert server.command("stop").returncode == 0
    assert "killing it" not in server.stderr
    assert "template" not in server.stderr
