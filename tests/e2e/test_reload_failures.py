"""Reloads that fail: the old workers serve on as if nothing had been, the reason is told, and the next one may do."""

from __future__ import annotations

import resource
import signal
import socket
from collections.abc import Iterator
from textwrap import indent

import pytest

from tests.conftest import eventually
from tests.e2e.apps import (
    APP,
    CONFIG,
    NEW,
    PAIR,
    ROUTE,
    Clients,
    begin,
    open_gate,
    pids,
    states,
    status,
    wait_generation,
)
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    """One server for all that is refused: whatever comes, it must be the same afterwards."""
    return serve_module(PAIR, {"app.py": APP, "here/is/a/directory": ""})


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    yield shared
    shared.rewrite(PAIR)
    (shared.directory / "app.py").write_text(APP)


def refuse(server: Server, *words: str) -> str:
    """`prefork reload` fails, says so in these words, and changes nothing."""
    before, descriptors = pids(server), server.master.num_fds()
    failed = server.command("reload")
    assert failed.returncode == 1
    assert failed.stdout == ""
    for word in ("reload failed, so all stays as it was", *words):
        assert word in failed.stderr
    told = status(server)
    assert told["last_reload"]["ok"] is False
    assert told["last_reload"]["message"] in failed.stderr
    assert told["master"]["generation"] == 1
    eventually(lambda: pids(server) == before, what="the old workers and nobody else")
    eventually(lambda: states(server) == ["serving"] * len(before), what="the end of who booted, in the status too")
    eventually(lambda: server.master.num_fds() <= descriptors, what="as many descriptors as before")
    assert {server.get("/version").body for _ in range(5)} == {b"one"}
    server.wait_log("error: reload failed, so all stays as it was")
    return failed.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[workers\ncount = 1\n" + ROUTE, ["config/server.toml: line"]),
        ("", ["config/server.toml", "route"]),
        ("[workers]\ncuont = 1\n" + ROUTE, ["workers.cuont", "count"]),
        ('[log]\nformat = "$nonsense"\n' + ROUTE, ["log.format"]),
        ('[log]\nerror = "here"\n' + ROUTE, ["here"]),
        ('[log]\naccess = "here"\n' + ROUTE, ["here"]),
        ('listen = ["127.0.0.1:PORT", "unix:here"]\n' + ROUTE, ["unix:here"]),
        ('listen = ["127.0.0.1:PORT", "192.0.2.1:80"]\n' + ROUTE, ["192.0.2.1:80"]),
    ],
)
def test_settings_that_cannot_be_served_change_nothing(server: Server, text: str, words: list[str]) -> None:
    server.rewrite(text)
    assert "Traceback" not in refuse(server, *words)


def test_a_config_that_is_gone_changes_nothing(server: Server) -> None:
    server.config.unlink()
    before = pids(server)
    server.signal(signal.SIGHUP)
    server.wait_log("reload failed, so all stays as it was: config/server.toml: no such file")
    assert pids(server) == before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_this_name\n", ["import nothing_of_this_name", "ModuleNotFoundError"]),
        ("def app(:\n", ["app.py", "SyntaxError"]),
        ("application = 0\n", ["module `app` has no attribute `app`"]),
        ("import os\nos._exit(4)\n", ["exit status 4"]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", ["SIGSEGV"]),
        (
            "import time\ntime.sleep(1000)\n",
            ["was not ready within 0.3 s (workers.boot_timeout)", "app.py", "time.sleep"],
        ),
    ],
)
def test_an_application_that_does_not_boot_changes_nothing(server: Server, source: str, words: list[str]) -> None:
    if "sleep" in source:
        server.rewrite(PAIR.replace("[log]", "boot_timeout = 0.3\n[log]"))
    (server.directory / "app.py").write_text(source)
    refuse(server, *words)


def test_a_port_in_use_changes_nothing_and_what_was_bound_before_it_is_released(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        server.rewrite(f'listen = ["unix:new.sock", "127.0.0.1:PORT", "127.0.0.1:{taken}"]\n{PAIR}')
        refuse(server, f"127.0.0.1:{taken}: something listens there already")
    assert not (server.directory / "new.sock").exists()


def test_workers_of_a_generation_that_fails_have_never_taken_a_client(server: Server) -> None:
    late = "\ntime.sleep(0.2)\nraise RuntimeError('too late')\n"
    source = NEW + f"try:\n    os.mkdir('first')\nexcept FileExistsError:\n{indent(late, '    ')}"
    (server.directory / "app.py").write_text(source)  # the first of two is ready long before the second fails
    with Clients(server) as clients:
        refuse(server, "RuntimeError: too late")
        clients.wait_answers(10)


def test_a_failing_reload_does_not_touch_a_request_under_way(server: Server) -> None:
    with_call = begin(server, "/wait")
    (server.directory / "app.py").write_text("1 / 0")
    assert "ZeroDivisionError" in server.command("reload").stderr
    open_gate(server)
    response = with_call.getresponse()
    assert response.read() == b"done"
    assert response.headers["Connection"] == "keep-alive"
    with_call.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux lets us limit another process")
def test_a_reload_for_which_there_are_no_descriptors_changes_nothing_and_the_next_one_works(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    pid, before, descriptors = server.process.pid, pids(server), server.master.num_fds()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    for extra in range(4):
        failures = server.stderr.count("reload failed, so all stays as it was")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors + extra, hard))
        server.signal(signal.SIGHUP)
        eventually(lambda seen=failures: server.stderr.count("reload failed, so all stays as it was") > seen)
        eventually(lambda: server.master.num_fds() <= descriptors, what="as many descriptors as before")
        eventually(lambda: pids(server) == before, what="the old workers and nobody else")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert server.get("/version").body == b"one"
    assert server.command("reload").returncode == 0


def test_status_says_that_the_last_reload_failed(server: Server) -> None:
    server.rewrite("[broken")
    assert server.command("reload").returncode == 1
    shown = server.command("status")
    assert shown.returncode == 0
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("  last reload "))
    assert ", FAILED: config/server.toml: line" in line


def test_operations_that_gather_during_a_failing_reload_are_granted_by_a_second_one(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    slow = "import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n1 / 0\n"
    (server.directory / "app.py").write_text(slow)
    server.signal(signal.SIGHUP)
    eventually((server.directory / "entered").exists, 10, what="the application's import")
    (server.directory / "app.py").write_text(NEW)
    server.signal(signal.SIGHUP)
    (server.directory / "go").touch()
    server.wait_log("ZeroDivisionError")
    wait_generation(server, 2, workers=1)
    assert server.get("/version").body == b"two"
    assert status(server)["last_reload"]["ok"] is True
