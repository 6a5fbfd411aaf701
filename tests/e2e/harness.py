"""The real server as tests run it: `prefork start` in a directory of its own, its signals, its commands, its end.

Owns the processes it starts and every descendant of theirs, wherever they went: `close` leaves none.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from prefork.process.master import control
from tests.conftest import describe, eventually

ROOT = Path(__file__).parents[2]
CONFIG = "config/server.toml"
CONTROL = "run/prefork.sock"
READY = re.compile(r"^prefork .*\bpid (\d+)", re.MULTILINE)
PORTS = random.SystemRandom()  # hypothesis seeds the common one, so two runs at once would want the same ports
MARK = "PREFORK_TEST_SERVER"  # in the environment of all that descends from one Server


class Answer(NamedTuple):
    """A response; header names are found in any case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, below those that systems give to outgoing connections."""
    while True:
        port = PORTS.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """`prefork start` with the configuration `text`, run in `directory`, its output in stdout.log and stderr.log there.

    The text gets a `listen` of 127.0.0.1 and a free port; where it has a `listen` of its own, PORT stands for the port.
    `port` is that port, `process` what was started, `master` whose pid the server told (not the same under `--daemon`).
    """

    def __init__(
        self, directory: Path, text: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.config = directory / CONFIG
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.text = text
        self.args = args
        self.mark = uuid.uuid4().hex
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(directory)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # else an application edited twice within a second keeps its stale .pyc
            MARK: self.mark,
            **(env or {}),
        }
        self.env.pop("PYTHONUNBUFFERED", None)  # what the server prints, it has to flush
        self.closed = False
        self.launch()

    def launch(self) -> None:
        """Start it, on a port that is free now."""
        self.port = free_port()
        self.rewrite(self.text)
        with open(self.directory / "stdout.log", "wb") as stdout, open(self.directory / "stderr.log", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefork", "start", "-c", CONFIG, *self.args],
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.master = psutil.Process(self.process.pid)

    def rewrite(self, text: str) -> None:
        """Put another configuration in place, for a reload."""
        if not re.search(r"^listen\b", text, re.MULTILINE):
            text = f'listen = ["127.0.0.1:PORT"]\n{text}'
        self.config.write_text(re.sub(r"\bPORT\b", str(self.port), text))

    def wait_ready(self, within: float = 10.0, tries: int = 3) -> None:
        """Until the server says that it serves, and all its workers do; fails with its stderr if it exits instead."""
        eventually(self.is_ready_or_gone, within, what=lambda: f"a server that is ready\n{self.stderr}")
        if ready := READY.search(self.stdout):
            self.master = psutil.Process(int(ready[1]))
            eventually(self.is_open, within, what=lambda: f"workers that all serve\n{self.stderr}")
        elif tries > 1 and "cannot listen on" in self.stderr:  # someone took the port after we had looked
            self.launch()
            self.wait_ready(within, tries - 1)
        else:
            pytest.fail(f"prefork start exited with {self.process.returncode}\n{self.stderr}")

    def is_ready_or_gone(self) -> bool:
        return READY.search(self.stdout) is not None or self.process.poll() is not None

    def is_open(self) -> bool:
        """Whether each worker accepts clients by now: a start ends a moment before the last one hears that it is to."""
        if not (self.directory / CONTROL).exists():  # but at a place of the test's own
            return True
        return "booting" not in [worker["state"] for worker in self.ask("status")["workers"]]

    def ask(self, name: str, **more: Any) -> dict[str, Any]:
        """What the master answers to a command through its control socket; it has closed its end by then."""
        reply, connection = control.ask(os.path.relpath(self.directory / CONTROL), {"command": name, **more})
        with connection, suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # its end, so that the master's descriptors can be counted at once
        return reply

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout.log").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr.log").read_text(errors="replace")

    def wait_log(self, pattern: str, within: float = 5.0) -> re.Match[str]:
        """The first match of a regular expression in stderr, waited for; ^ and $ match at lines."""
        found = eventually(
            lambda: re.search(pattern, self.stderr, re.MULTILINE),
            within,
            what=lambda: f"{pattern!r} in the log\n{self.stderr}",
        )
        assert found
        return found

    def get(
        self,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
        timeout: float = 10.0,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """A plain connection; the caller closes it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, data: bytes, timeout: float = 10.0) -> bytes:
        """Everything the server answers to these bytes, until it closes."""
        with self.connect(timeout) as connection:
            connection.sendall(data)
            return read_all(connection)

    def signal(self, number: signal.Signals) -> None:
        """Send the master a signal."""
        self.master.send_signal(number)

    def command(self, name: str, *args: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """`prefork NAME -c config/server.toml ARGS` in the server's directory, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "prefork", name, "-c", CONFIG, *args],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def workers(self) -> list[psutil.Process]:
        """The children of the master that are alive."""
        return [child for child in self.master.children() if is_alive(child)]

    def wait_exit(self, within: float = 10.0) -> int:
        """The exit code of what was started, waited for (negative: killed by that signal)."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(within)
        pytest.fail(f"prefork still runs after {within:g} s\n{self.stderr}")

    def family(self) -> list[psutil.Process]:
        """All live processes that this server started, found by session and by environment: none escapes by forking."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = os.getsid(process.pid) == self.process.pid or process.environ().get(MARK) == self.mark
                if ours and is_alive(process):
                    found.append(process)
        return found

    def close(self) -> None:
        """Stop it, gracefully if it can, and see that nothing of it is left; fails where something had to be killed."""
        if self.closed:
            return
        self.closed = True
        was_running = self.process.poll() is None
        left = self.stop()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        code = self.process.wait(10)
        eventually(lambda: not self.family(), what="the end of the processes killed")
        assert not left, f"the server did not stop by itself: {describe(left)}\n{self.stderr}"
        assert code == 0 or not was_running, f"exit code {code} after SIGTERM\n{self.stderr}"
        # a process of several threads is a zombie by its first one's end, and has its sockets until the last one's
        eventually(self.refuses, what="the end of the last socket that listens")
        if code == 0:
            run = self.directory / "run"
            assert [entry.name for entry in run.glob("*") if entry.suffix in {".pid", ".sock"}] == []

    def refuses(self) -> bool:
        """Nobody listens at its port."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def stop(self) -> list[psutil.Process]:
        """TERM, a second one (fast) 3 s later; returns what is still there after 3 s more."""
        for _ in range(2):
            with suppress(psutil.NoSuchProcess):
                self.signal(signal.SIGTERM)
            with suppress(pytest.fail.Exception):
                eventually(self.is_gone, within=3)
                return []
        return self.family()

    def is_gone(self) -> bool:
        self.process.poll()  # reaps it
        return not is_alive(self.master) and not self.family()


def read_all(connection: socket.socket) -> bytes:
    """What there is to read until the other end closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def suspend(process: psutil.Process) -> None:
    """Stop it, and wait until it is: before, a thread of it that is asked something may still answer."""
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, what=f"process {process.pid} to stop")


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
