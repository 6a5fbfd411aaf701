"""WINCH: the workers finish and leave, the master holds the sockets, and a reload brings workers again."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import psutil

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, answer, begin, connect, open_gate, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT


def test_the_workers_finish_and_leave_and_whoever_comes_waits_for_the_next(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with_call = begin(server, "/wait")
    server.signal(signal.SIGWINCH)
    server.wait_log("draining the workers; a reload brings new ones")
    eventually(lambda: status(server)["workers"][0]["state"] == "draining", what="the drain")
    late = connect(server)
    late.request("GET", "/version")
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    eventually(lambda: not pids(server), what="the end of the workers")
    server.signal(signal.SIGWINCH)  # there is nobody any more
    server.signal(signal.SIGTTIN)
    server.wait_log("change of the number of workers failed, so all stays as it was: the workers have been drained")
    assert not pids(server)
    assert server.command("reload").returncode == 0
    assert answer(late) == b"one"
    late.close()
    server.signal(signal.SIGWINCH)
    eventually(lambda: not pids(server), what="the end of the workers")
    assert server.command("upgrade").returncode == 0
    assert server.wait_exit() == 0
    server.master = psutil.Process(int((server.directory / "run/prefork.pid").read_text()))
    assert server.get("/version").body == b"one"


def test_a_terminal_that_changes_its_size_drains_nobody(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prefork", "start", "app:app", "--listen", "127.0.0.1:0", "--workers", "1"]
    directory = server.directory / "other"
    directory.mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(server.directory)])}
    with subprocess.Popen(
        command,
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        pass_fds=[theirs],
        text=True,
    ) as process:
        assert process.stdout
        assert "serving" in process.stdout.readline()
        (worker,) = psutil.Process(process.pid).children()
        assert os.tcgetpgrp(ours) == process.pid
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        told = subprocess.run(
            [sys.executable, "-m", "prefork", "status"],
            cwd=directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert f"{worker.pid} " in told.stdout
        assert " serving " in told.stdout
        process.terminate()
        assert process.wait(10) == 0
    os.close(ours)
    os.close(theirs)
