"""Temporary files of request bodies: what goes wrong with them is said as it is, and before it matters."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from prefork.http.spool import trouble
from tests.http.conftest import World, echo

Make = Callable[..., World]

UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000


@contextmanager
def at_most(what: int, limit: int) -> Iterator[None]:
    """This process may have no more than that."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    with at_most(resource.RLIMIT_NOFILE, max(used) + 1):
        taken: list[int] = []
        with suppress(OSError):
            while True:
                taken.append(os.dup(min(used)))
        try:
            yield
        finally:
            for descriptor in taken:
                os.close(descriptor)


def said(here: World, want: AbstractContextManager[None] | None = None) -> str:
    """What the log says of an upload that cannot be kept, for some want."""
    peer = here.connect(tcp=False)
    peer.send(UPLOAD[:100])
    here.until(lambda: peer.connection.request, "a request")
    with want or nullcontext():
        peer.send(UPLOAD[100:])
        peer.until(lambda: here.errors, "an error")
    assert peer.answer("POST").status == 500
    (record,) = here.errors
    here.errors.clear()
    return record.getMessage()


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has looked for the directory yet."""
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.usefixtures("unknown")
def test_a_want_of_descriptors_is_not_a_want_of_directories(world: Make) -> None:
    assert "cannot be kept on disk: Too many open files" in said(world(echo), no_descriptor_left())


def test_a_want_of_descriptors_is_told_where_the_directory_is_known(world: Make) -> None:
    directory = tempfile.gettempdir()
    assert f"cannot be kept in {directory}: Too many open files" in said(world(echo), no_descriptor_left())


def test_a_disk_that_takes_no_more_is_told_with_the_directory(world: Make) -> None:
    directory = tempfile.gettempdir()
    assert f"cannot be kept in {directory}: File too large" in said(
        world(echo), at_most(resource.RLIMIT_FSIZE, 100_000)
    )


def test_a_directory_that_is_gone_is_told(world: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    monkeypatch.setattr(tempfile, "tempdir", gone)
    assert f"cannot be kept in {gone}: No such file or directory" in said(world(echo))


@pytest.mark.usefixtures("unknown")
def test_where_no_directory_can_be_written_to_that_is_known_beforehand() -> None:
    with at_most(resource.RLIMIT_FSIZE, 0):
        told = trouble()
    assert told == (
        "request bodies above http.body_buffer will get a 500: "
        "no directory for temporary files can be written to; set TMPDIR to one"
    )


@pytest.mark.usefixtures("unknown")
def test_another_directory_than_the_asked_for_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    told = trouble()
    assert told.startswith("request bodies are kept in /")
    assert told.endswith(f"since TMPDIR ({tmp_path}/gone) cannot be written to")


@pytest.mark.usefixtures("unknown")
def test_of_a_directory_that_is_as_it_should_be_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", f"{tmp_path}/")
    assert trouble() == ""
