"""The control socket: whose file it is, and who does not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.errors import StartError
from prefork.process import control
from prefork.process.control import ControlSocket, ask


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


def test_a_master_that_does_not_answer_is_waited_for_no_longer_than_it_may_take(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(control.AT_ONCE, "status", 0.1)
    silent = ControlSocket(path)
    with pytest.raises(StartError, match="does not answer: is it stopped, or stuck"):
        ask(path, {"command": "status"})
    silent.remove()
