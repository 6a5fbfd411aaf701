"""The control socket: whose file it is, and who does not answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from prefork.errors import StartError
from prefork.process.master.control import ControlSocket, ask


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "control.sock")
    assert list(tmp_path.iterdir()) == []


def test_its_file_goes_with_it(path: str) -> None:
    ControlSocket(path).remove()


def test_a_file_that_is_another_masters_by_now_stays(path: str) -> None:
    first = ControlSocket(path)
    Path(path).unlink()
    second = ControlSocket(path)
    first.remove()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    second.remove()


class Impostor(threading.Thread):
    """Answers the first who asks at `path` with `reply`, as the user of that id."""

    def __init__(self, path: str, reply: bytes, user: int | None = None) -> None:
        super().__init__()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        if user is not None:
            os.seteuid(user)
        self.listener.listen()  # by which the kernel knows whose it is
        if user is not None:
            os.seteuid(0)
        self.reply = reply
        self.heard = b""

    def run(self) -> None:
        with self.listener.accept()[0] as client, suppress(OSError):
            self.heard = client.recv(65536)
            client.sendall(self.reply)

    def __enter__(self) -> Impostor:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.join()
        os.unlink(self.listener.getsockname())
        self.listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_believed_and_hears_nothing(path: str) -> None:
    impostor = Impostor(path, b'{"ok": true}\n', 12345)
    with impostor, pytest.raises(StartError, match="the server there runs as user 12345, neither as root nor as root"):
        ask(path, {"command": "reload"})
    assert impostor.heard == b""


ANSWERER = """
import os, socket
os.setuid(12345)
client = socket.socket(fileno=0).accept()[0]
client.recv(65536)
client.sendall(b'{"ok": true, "message": "done"}\\n')
"""


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can be somebody else")
def test_a_worker_is_not_believed_where_it_answers_by_a_socket_of_roots_that_it_has_put_there(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        answerer = subprocess.Popen([sys.executable, "-c", ANSWERER], stdin=listener)
        try:
            with pytest.raises(StartError, match="the server there runs as user 12345, neither as root nor as root"):
                ask(path, {"command": "reload"})
        finally:
            answerer.wait(10)
            os.unlink(path)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"garbage\n", "sends a malformed answer"),
        (b"[]\n", "sends a malformed answer"),
        (b"{}\n", "sends a malformed answer"),
        (b'{"ok": 1}\n', "sends a malformed answer"),
        (b'{"ok": true, "message": {}}\n', "sends a malformed answer"),
        (b'{"ok": true, "pid": 99999999999999999999}\n', "sends a malformed answer"),
        (b'{"ok": true, "message": "\xff"}\n', "sends a malformed answer"),
        (b'{"ok": true, "x": ' + b"[" * 100_000 + b"\n", "sends a malformed answer"),
        (b" " * (17 << 20), "sends an answer that does not end"),
        (b'{"ok": true', "no prefork answers"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error(path: str, reply: bytes, problem: str) -> None:
    with Impostor(path, reply), pytest.raises(StartError, match=problem):
        ask(path, {"command": "reload"})


def test_a_link_to_another_control_socket_is_no_master_in_the_way(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{path}.other")
        other.listen()
        os.symlink(f"{path}.other", path)
        with pytest.raises(StartError, match="the file exists already, and is no socket"):
            ControlSocket(path)
    os.unlink(path)
    os.unlink(f"{path}.other")


def test_a_master_that_does_not_answer_is_waited_for_no_longer_than_it_may_take(
    path: str,
) -> None:
    silent = ControlSocket(path)
    with pytest.raises(StartError, match="does not answer: is it stopped, or stuck"):
        ask(path, {"command": "status"}, answer_timeouts={"status": 0.1})
    silent.remove()


@pytest.mark.parametrize("command", ["status", "reload"])
def test_a_master_that_has_been_asked_more_often_than_its_queue_holds_does_not_answer_either(
    path: str, command: str
) -> None:
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        opened.callback(os.unlink, path)
        listener.listen(0)
        full = False
        while not full:
            client = opened.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(path) != 0
        with pytest.raises(StartError, match="does not answer: is it stopped, or stuck"):
            ask(path, {"command": command}, queue_timeout=0.1)
