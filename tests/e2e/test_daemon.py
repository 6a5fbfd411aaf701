"""`start --daemon`: the caller has the result, and the server nothing of the caller's."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, links
from tests.e2e.harness import ROOT, is_alive, read_all

LOGGED = CONFIG.replace('access = ""', 'error = "error.log"\naccess = "access.log"')
PRINTS = f"import sys\n{APP}".replace('start_response("200 OK", [])', 'start_response("200 OK", [])\n    print("x")')
START = [sys.executable, "-m", "prefork", "start", "-c", "server.toml", "--listen", "127.0.0.1:0"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A site; the daemon that was started in it is stopped when the test ends."""
    (tmp_path / "app.py").write_text(PRINTS)
    (tmp_path / "server.toml").write_text(LOGGED)
    yield tmp_path
    if (tmp_path / "run/prefork.pid").exists():
        daemon = psutil.Process(master(tmp_path))
        daemon.terminate()
        eventually(lambda: not is_alive(daemon), 10, what="the end of the daemon")
        assert not (tmp_path / "run").exists()


def start(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """To the end of all who hold its output."""
    return subprocess.run([*START, *args], cwd=directory, env=ENV, capture_output=True, text=True, timeout=20)


def master(directory: Path) -> int:
    return int((directory / "run/prefork.pid").read_text())


def get(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        return read_all(client)


def test_the_caller_returns_when_the_server_is_ready_and_leaves_it_nothing(directory: Path) -> None:
    reading, writing = os.pipe()
    done = subprocess.run(
        [*START, "--daemon"], cwd=directory, env=ENV, capture_output=True, text=True, timeout=20, pass_fds=[writing]
    )
    os.close(writing)
    assert os.read(reading, 1) == b""  # which ends when nobody has the other end any more
    os.close(reading)
    assert (done.returncode, done.stderr) == (0, "")
    pid = master(directory)
    found = re.fullmatch(
        r"prefork \S+ serving http://127\.0\.0\.1:(\d+)/ with 1 worker \(.*pid (\d+)\); (.*)\n", done.stdout
    )
    assert found, done.stdout
    assert (int(found[2]), found[3]) == (pid, "stop with `prefork stop -c server.toml`")
    assert get(int(found[1])).endswith(b"one")
    daemon = psutil.Process(pid)
    assert os.getsid(pid) not in (pid, os.getsid(0))  # no leader of its session: it gets no terminal by opening one
    for process in (daemon, *daemon.children()):
        assert process.terminal() is None
        streams = [os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in range(3)]
        assert streams == [os.devnull] * 3
    eventually(lambda: "/version" in (directory / "access.log").read_text(), what="the line of the request")
    assert "Traceback" not in (directory / "error.log").read_text()


def test_the_caller_gets_the_error_of_the_boot(directory: Path) -> None:
    (directory / "app.py").write_text("1 / 0")
    done = start(directory, "--daemon")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(
        r"^ZeroDivisionError: division by zero\nprefork: cannot start: worker \d+ cannot boot", done.stderr, re.M
    )
    (directory / "server.toml").write_text("x = 1\n")
    assert start(directory, "--daemon").returncode == 2
    assert not (directory / "run").exists()


def test_the_key_does_the_same_and_a_log_on_stderr_is_warned_of(directory: Path) -> None:
    (directory / "server.toml").write_text(f"[master]\ndaemon = true\n{CONFIG}")
    done = start(directory)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert 'a daemon has no stderr, so the logs to "-" are lost' in done.stderr
    again = start(directory)
    assert again.returncode == 1
    assert f"a master with pid {master(directory)} runs with this pid file" in again.stderr


def test_a_stderr_that_is_a_file_is_kept(directory: Path) -> None:
    (directory / "server.toml").write_text(CONFIG)
    with open(directory / "stderr.log", "wb") as file:
        assert subprocess.run([*START, "--daemon"], cwd=directory, env=ENV, stderr=file, timeout=20).returncode == 0
    assert links(master(directory)).count(str(directory / "stderr.log")) == 2  # standard error, and the log


def test_a_caller_who_is_interrupted_leaves_no_server(directory: Path) -> None:
    (directory / "app.py").write_text("import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n")
    with subprocess.Popen([*START, "--daemon"], cwd=directory, env=ENV, start_new_session=True) as caller:
        eventually((directory / "entered").exists, 10, what="the application's import")
        daemon = psutil.Process(master(directory))
        caller.send_signal(signal.SIGINT)
        assert caller.wait(10) == 130
    eventually(lambda: not is_alive(daemon), 10, what="the end of the daemon")
