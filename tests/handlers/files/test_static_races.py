"""Static files: names that change while they are looked up lead nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork.handlers.files.static import Files
from tests.handlers.files.file_trees import ask, got, serve

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def swapping(function: Callable[..., Any], trigger: bytes, swap: Callable[[], None], after: bool) -> Callable[..., Any]:
    """`function`, with `swap` called once: right before, or right after, its first call for the name `trigger`."""
    pending = [swap]

    def wrapper(name: Any, *rest: Any, **more: Any) -> Any:
        due = name == trigger and pending
        if due and not after:
            pending.pop()()
        try:
            return function(name, *rest, **more)
        finally:
            if due and after and pending:
                pending.pop()()

    return wrapper


def swap_once_looked_at(file: Path, put: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `file`, and right after the first look at it remove it, and have something else `put` in its place."""
    file.write_bytes(b"x")

    def swap() -> None:
        file.unlink()
        put()

    monkeypatch.setattr(os, "stat", swapping(os.stat, os.fsencode(file.name), swap, after=True))


def test_a_file_swapped_for_a_link_after_it_was_looked_at_is_not_followed(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "file"
    swap_once_looked_at(file, lambda: file.symlink_to("../outside/secret"), monkeypatch)
    assert got(files, "/file")[0] == 404
    assert file.is_symlink()


def test_a_file_swapped_for_a_fifo_after_it_was_looked_at_does_not_block(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root / "file"
    swap_once_looked_at(file, lambda: os.mkfifo(file), monkeypatch)
    assert got(files, "/file")[0] == 404
    assert file.is_fifo()


@pytest.mark.parametrize("after", [False, True])
def test_a_directory_swapped_for_a_link_during_the_walk_does_not_lead_out(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "secret").write_bytes(b"harmless")

    def swap() -> None:
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("../outside")

    monkeypatch.setattr(os, "open", swapping(os.open, b"sub", swap, after))
    # Entered before the swap, it is the directory that it was; after it, it is a link that leads out.
    assert got(files, "/sub/secret") == ((200, b"harmless") if after else (404, b""))
    assert (root / "sub").is_symlink()


def test_a_place_swapped_for_a_link_after_a_link_to_it_was_resolved_is_not_followed(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "real").mkdir()
    (root / "real" / "secret").write_bytes(b"x")
    (root / "link").symlink_to("real")

    def swap() -> None:
        (root / "real").rename(root / "moved")
        (root / "real").symlink_to("../outside")

    resolved = os.path.join(os.path.realpath(os.fsencode(root)), b"link", b"secret")
    monkeypatch.setattr(os.path, "realpath", swapping(os.path.realpath, resolved, swap, after=True))
    assert got(files, "/link/secret")[0] == 404
    assert (root / "real").is_symlink()


def test_nothing_leaks_while_another_thread_swaps_files_and_links(root: Path, files: Files) -> None:
    (root / "inside").write_bytes(b"inside")
    (root / "dir").mkdir()
    (root / "dir" / "secret").write_bytes(b"inside")
    (root / "flip").write_bytes(b"inside")
    (root / "way").symlink_to("dir")
    stop = threading.Event()

    def swap() -> None:
        spare = root / "spare"
        while not stop.is_set():
            for target in ("../outside/secret", "inside"):
                spare.symlink_to(target)
                os.replace(spare, root / "flip")
            spare.write_bytes(b"inside")
            os.replace(spare, root / "flip")
            for target in ("../outside", "dir"):
                spare.symlink_to(target)
                os.replace(spare, root / "way")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = {got(files, path) for _ in range(3000) for path in ("/flip", "/way/secret")}
    finally:
        stop.set()
        swapper.join()
    assert seen <= {(200, b"inside"), (404, b"")}
    assert (200, b"inside") in seen


def test_a_file_that_shrinks_before_it_is_read_is_sent_as_long_as_it_is_and_not_to_be_cached(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file.txt").write_bytes(b"123456")
    real_fstat = os.fstat

    def fstat(file: int) -> os.stat_result:
        status = real_fstat(file)
        os.truncate(root / "file.txt", 2)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    response = ask(serve(root, max_age=60), "/file.txt")
    assert (response.status, response.body) == (200, b"12")
    assert [name for name, _ in response.headers] == ["Content-Type"]


def test_a_file_that_grows_before_it_is_read_is_sent_as_it_was(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"123")
    real_fstat = os.fstat

    def fstat(file: int) -> os.stat_result:
        status = real_fstat(file)
        (root / "file").write_bytes(b"123456")
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    assert ask(files, "/file").body == b"123"


def test_a_read_that_returns_less_is_continued(root: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_bytes(b"123456")
    real_read = os.read
    monkeypatch.setattr(os, "read", lambda file, count: real_read(file, min(count, 4)))
    assert ask(files, "/file").body == b"123456"
