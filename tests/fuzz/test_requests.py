"""The fuzzer itself: it finds nothing in two seconds, and would say so if it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefork.http.h1.parse import Heads
from tests.fuzz.requests import main


def test_two_seconds_of_random_bytes_break_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "2"]) == 0, "\n".join(capsys.readouterr())  # whole, which pytest cuts a tuple's repr
    assert "runs" in capsys.readouterr().out


def test_what_breaks_the_server_is_kept_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stumble(self: Heads, data: bytes, known: int) -> None:
        """A bug: it does not survive a NUL."""
        if b"\x00" in data:
            raise ZeroDivisionError

    monkeypatch.setattr(Heads, "check_partial", stumble)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["--seconds", "10", "--seed", "1"]) == 1
    (file,) = tmp_path.glob("*.http")
    assert b"\x00" in file.read_bytes()
    assert str(file) in capsys.readouterr().out
