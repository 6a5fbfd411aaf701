"""In root's terminal: workers of another user have no part in it, and Ctrl-C ends the server all the same."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.harness import CONFIG as CONFIG_FILE
from tests.e2e.harness import Server, free_port, is_alive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

TRIES = """
import fcntl, json, os, termios

def attempt(call, *arguments):
    try:
        return repr(call(*arguments))
    except OSError as error:
        return error.strerror

def app(environ, start_response):
    start_response("200 OK", [])
    print("a worker prints")
    told = {
        "session": os.getsid(0),
        "opens": attempt(os.open, "/dev/tty", os.O_RDWR),
        "types": [attempt(fcntl.ioctl, stream, termios.TIOCSTI, b"x") for stream in range(3)],
        "reads": [attempt(os.read, stream, 1) for stream in range(3)],
    }
    return [json.dumps(told).encode()]
"""
CONFIG = """
[master]
user = "nobody"
[workers]
count = 1
preload = PRELOAD
[log]
access = ""
[[route]]
path = "/"
wsgi = "app:app"
"""


class InTerminal(Server):
    """A Server in the foreground of a terminal, of which the test has the other end, `keyboard`."""

    def launch(self) -> None:
        self.port = free_port()
        self.rewrite(self.text)
        (self.directory / "stderr.log").touch()
        self.keyboard, terminal = pty.openpty()
        modes = termios.tcgetattr(terminal)
        modes[3] |= termios.TOSTOP  # nobody may write to it from the background
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefork", "start", "-c", CONFIG_FILE],
            cwd=self.directory,
            env=self.env,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        os.set_blocking(self.keyboard, False)
        self.shown = b""
        self.master = psutil.Process(self.process.pid)

    @property
    def screen(self) -> bytes:
        """What has been written to the terminal so far."""
        with suppress(BlockingIOError, OSError):  # nothing at the moment; nobody has it open any more
            while piece := os.read(self.keyboard, 65536):
                self.shown += piece
        return self.shown


@pytest.fixture(params=["false", "true"], ids=["forked", "preloaded"])
def server(request: pytest.FixtureRequest) -> Iterator[InTerminal]:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    (directory / "app.py").write_text(TRIES)
    server = InTerminal(directory, CONFIG.replace("PRELOAD", request.param))
    try:
        eventually(lambda: b"serving http" in server.screen, 10, what=lambda: repr(server.screen))
        eventually(server.is_open, 10)
        yield server
    finally:
        server.close()
        os.close(server.keyboard)
        shutil.rmtree(directory)


def test_a_worker_of_another_user_can_write_to_it_and_nothing_else_and_ctrl_c_ends_all(server: InTerminal) -> None:
    told = json.loads(server.get().body)
    workers = server.master.children(recursive=True)
    assert told["session"] in {worker.pid for worker in workers}
    assert told["opens"] == "No such device or address"
    assert not [answer for answer in told["types"] if answer[0] in "'0b"]
    assert told["reads"] == ["b''", "Bad file descriptor", "Bad file descriptor"]
    eventually(lambda: b"a worker prints" in server.screen)
    os.write(server.keyboard, b"\x03")
    assert server.wait_exit() == 0
    assert not [worker for worker in workers if is_alive(worker)]
