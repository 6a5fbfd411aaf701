"""Reloads that fail: the old workers serve on as if nothing had been, the reason is told, and the next reload can do."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, ROUTE, begin, open_gate, pids, states, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server


@pytest.fixture
def taken() -> int:
    """A port that somebody else listens on."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken_ports.append(listener)
    return int(listener.getsockname()[1])


taken_ports: list[socket.socket] = []


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
    assert states(server) == ["serving"] * len(before)
    eventually(lambda: server.master.num_fds() == descriptors, what="as many descriptors as before")
    assert {server.get("/version").body for _ in range(5)} == {b"one"}
    server.wait_log("error: reload failed, so all stays as it was")
    return failed.stderr


def recover(server: Server) -> None:
    server.rewrite(PAIR)
    (server.directory / "app.py").write_text(APP.replace('"one"', '"two"'))
    assert server.command("reload").returncode == 0
    wait_generation(server, 2, workers=2)
    assert server.get("/version").body == b"two"
    assert status(server)["last_reload"]["ok"] is True


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
def test_settings_that_cannot_be_served_change_nothing(serve: Serve, text: str, words: list[str]) -> None:
    server = serve(PAIR, {"app.py": APP, "here/is/a/directory": ""})
    server.rewrite(text)
    assert "Traceback" not in refuse(server, *words)
    recover(server)


def test_a_config_that_is_gone_changes_nothing(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    server.config.unlink()
    before = pids(server)
    server.signal(signal.SIGHUP)
    server.wait_log("reload failed, so all stays as it was: config/server.toml: no such file")
    assert pids(server) == before
    recover(server)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_this_name\n", ["import nothing_of_this_name", "ModuleNotFoundError"]),
        ("def app(:\n", ["app.py", "SyntaxError"]),
        ("application = 0\n", ["module `app` has no attribute `app`"]),
        ("import os\nos._exit(4)\n", ["exit status 4"]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", ["SIGSEGV"]),
        ("import time\ntime.sleep(1000)\n", ["was not ready within 0.3 s"]),
    ],
)
def test_an_application_that_does_not_boot_changes_nothing(serve: Serve, source: str, words: list[str]) -> None:
    server = serve(PAIR.replace("[log]", "boot_timeout = 10\n[log]"), {"app.py": APP})
    server.rewrite(PAIR.replace("[log]", "boot_timeout = 0.3\n[log]") if "sleep" in source else PAIR)
    (server.directory / "app.py").write_text(source)
    refuse(server, *words)
    recover(server)


def test_a_port_in_use_changes_nothing_and_what_was_bound_before_it_is_released(serve: Serve, taken: int) -> None:
    server = serve(PAIR, {"app.py": APP})
    server.rewrite(f'listen = ["unix:new.sock", "127.0.0.1:PORT", "127.0.0.1:{taken}"]\n{PAIR}')
    refuse(server, f"127.0.0.1:{taken}: something listens there already")
    assert not (server.directory / "new.sock").exists()
    recover(server)


def test_one_worker_that_fails_takes_the_whole_new_generation_along(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    (server.directory / "app.py").write_text(f"import os\nos.mkdir('first')\n{APP}")
    refuse(server, "FileExistsError")


def test_a_failing_reload_does_not_touch_a_request_under_way(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with_call = begin(server, "/wait")
    (server.directory / "app.py").write_text("1 / 0")
    assert "ZeroDivisionError" in server.command("reload").stderr
    open_gate(server)
    response = with_call.getresponse()
    assert response.read() == b"done"
    assert response.headers["Connection"] is None
    with_call.close()


def test_status_says_that_the_last_reload_failed(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.rewrite("[broken")
    server.signal(signal.SIGHUP)
    server.wait_log("reload failed")
    shown = server.command("status")
    assert shown.returncode == 0
    assert "last reload FAILED: config/server.toml: line" in shown.stdout


def test_wishes_that_gather_during_a_failing_reload_are_granted_by_a_second_one(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    slow = "import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n1 / 0\n"
    (server.directory / "app.py").write_text(slow)
    server.signal(signal.SIGHUP)
    eventually((server.directory / "entered").exists, 10, what="the application's import")
    (server.directory / "app.py").write_text(APP.replace('"one"', '"two"'))
    server.signal(signal.SIGHUP)
    Path(server.directory / "go").touch()
    server.wait_log("ZeroDivisionError")
    wait_generation(server, 2, workers=1)
    assert server.get("/version").body == b"two"
