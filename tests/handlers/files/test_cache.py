"""The file cache: what is kept, within which bounds, and that it never says what is not true."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from prefork.handlers.files import cache as module
from prefork.handlers.files.cache import OVERHEAD, FileCache
from prefork.handlers.files.representation import SMALL
from prefork.handlers.files.static import Files
from prefork.http.h1.render import Renderer
from prefork.http.message import FileSegment, Repeatable, RequestLine, Response
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.shared.counters import FILE_EVICTIONS, FILE_HITS, FILE_MISSES, WIDTH
from tests.handlers.files.file_trees import ask, content, descriptors, descriptors_at_rest, field, got, serve
from tests.handlers.files.file_trees import file_cache as make_cache

LONG_AGO = (10**9, 10**9)


class Clock:
    """Stands in for monotonic and Unix time in what is under test."""

    def __init__(self) -> None:
        self.ahead = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    from time import time_ns

    monkeypatch.setattr("prefork.handlers.files.static.monotonic", lambda: 1000.5 + clock.ahead)
    # what a test has just written has settled, unless it says otherwise
    monkeypatch.setattr(module.time, "time_ns", lambda: time_ns() + int((clock.ahead + 10) * 1e9))
    return clock


@pytest.fixture
def board() -> memoryview:
    return memoryview(bytearray(8 * WIDTH)).cast("Q")


def counted(board: memoryview) -> tuple[int, int, int]:
    return board[FILE_HITS], board[FILE_MISSES], board[FILE_EVICTIONS]


def keeping(root: Path, board: memoryview, **bounds: Any) -> tuple[Files, FileCache]:
    cache = make_cache(board, **bounds)
    return serve(root, cache=cache), cache


def test_what_is_kept_is_given_again_without_the_file_system(
    root: Path, board: memoryview, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"one")
    files, _ = keeping(root, board)
    first = ask(files, "/file")
    with monkeypatch.context() as patch:
        for call in ("open", "stat", "fstat", "read"):
            patch.setattr(os, call, lambda *_, **__: pytest.fail("the file system was asked"))
        assert ask(files, "/file") is first
        assert ask(files, "/file", if_none_match="*").status == 304
        assert content(ask(files, "/file", range="bytes=1-")) == b"ne"
    assert counted(board) == (3, 1, 0)


def test_what_is_kept_lasts_beside_what_another_route_answers_for(root: Path, board: memoryview, clock: Clock) -> None:
    for name in ("first.html", "index.html", "app.js", "app.js.gz"):
        (root / name).write_bytes(b"x")
    closed = {"/first.html", "/app.js.gz"}
    how = {"index": ("first.html", "index.html"), "precompressed": True, "is_closed": closed.__contains__}
    files = serve(root, cache=make_cache(board), **how)
    for turn in range(3):
        clock.ahead = turn * 5.0
        assert got(files, "/") == got(files, "/app.js") == (200, b"x")
    assert counted(board) == (4, 2, 0)


def test_a_change_shows_once_the_second_is_over(root: Path, board: memoryview, clock: Clock) -> None:
    (root / "file").write_bytes(b"one")
    files, _ = keeping(root, board)
    assert got(files, "/file") == (200, b"one")
    (root / "file").write_bytes(b"other")
    assert got(files, "/file") == (200, b"one")
    clock.ahead = 1.1
    assert got(files, "/file") == (200, b"other")
    (root / "file").unlink()
    clock.ahead = 2.2
    assert got(files, "/file")[0] == 404


def test_a_file_that_stays_is_looked_at_and_not_read_again(root: Path, board: memoryview, clock: Clock) -> None:
    (root / "file").write_bytes(b"one")
    files, _ = keeping(root, board)
    first = ask(files, "/file")
    clock.ahead = 1.1
    assert ask(files, "/file") is first
    assert counted(board) == (1, 1, 0)


def test_a_change_that_the_times_may_not_tell_is_seen(root: Path, board: memoryview, clock: Clock) -> None:
    """Twice within one tick of the kernel's clock, at the same size: the times are the same."""
    clock.ahead = -10.0
    (root / "file").write_bytes(b"one")
    status = os.stat(root / "file")
    files, _ = keeping(root, board, valid=0)
    assert got(files, "/file") == (200, b"one")
    with open(root / "file", "r+b") as file:
        file.write(b"two")
    os.utime(root / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert got(files, "/file") == (200, b"two")


def test_what_the_times_cannot_tell_is_told_by_the_change_time(root: Path, board: memoryview, clock: Clock) -> None:
    """A deploy that gives every file the same time, in place, with files of the same size."""
    (root / "file").write_bytes(b"one")
    os.utime(root / "file", LONG_AGO)
    files, _ = keeping(root, board, valid=0)
    assert got(files, "/file") == (200, b"one")
    (root / "file").write_bytes(b"two")
    os.utime(root / "file", LONG_AGO)
    assert got(files, "/file") == (200, b"two")


def test_nothing_that_came_to_lie_outside_is_given_in_its_place(root: Path, board: memoryview, clock: Clock) -> None:
    (root / "file").write_bytes(b"inside")
    files, _ = keeping(root, board, valid=0)
    assert got(files, "/file") == (200, b"inside")
    (root / "file").unlink()
    (root / "file").symlink_to("../outside/secret")
    assert got(files, "/file")[0] == 404


def test_what_is_not_there_is_remembered_for_the_second(root: Path, board: memoryview, clock: Clock) -> None:
    files, _ = keeping(root, board)
    assert got(files, "/file")[0] == 404
    (root / "file").write_bytes(b"x")
    assert got(files, "/file")[0] == 404
    clock.ahead = 1.1
    assert got(files, "/file") == (200, b"x")


def test_names_that_lead_to_nothing_fill_no_memory(root: Path, board: memoryview, clock: Clock) -> None:
    files, cache = keeping(root, board)
    for number in range(module.MOST_ABSENT + 10):
        assert got(files, f"/missing{number}")[0] == 404
    assert len(cache.absent) <= module.MOST_ABSENT
    assert got(files, "/" + "x" * 5000)[0] == 404
    assert all(len(path) <= module.LONGEST_REMEMBERED for _, path in cache.absent)  # type: ignore[misc]


def test_all_paths_that_fall_back_share_what_they_fall_back_to(root: Path, board: memoryview, clock: Clock) -> None:
    (root / "index.html").write_bytes(b"app")
    cache = make_cache(board)
    files = serve(root, cache=cache, try_=("$uri", "/index.html"))
    responses = {id(ask(files, f"/users/{number}")) for number in range(50)}
    assert len(responses) == len(cache.entries) == 1
    assert counted(board) == (49, 1, 0)
    (root / "users").mkdir()
    (root / "users/7").write_bytes(b"seven")
    assert got(files, "/users/7") == (200, b"app")  # what is not there is remembered for the second, too
    clock.ahead = 1.1
    assert got(files, "/users/7") == (200, b"seven")


# ---- bounds


def test_the_bytes_are_bounded_and_who_is_asked_for_stays(root: Path, board: memoryview, clock: Clock) -> None:
    for number in range(5):
        (root / f"{number}").write_bytes(b"%d" % number * 1000)
    files, cache = keeping(root, board, memory=3 * (OVERHEAD + 1000 + len(f"{root}/0") + len("/0")))
    for when, number in (0, 0), (0, 1), (0, 2), (8, 0), (9, 3), (12, 3), (12, 4), (12, 0):
        clock.ahead = when
        assert got(files, f"/{number}") == (200, b"%d" % number * 1000)
    assert sorted(path for _, path in cache.entries) == ["/0", "/3", "/4"]  # type: ignore[misc]
    assert counted(board) == (2, 6, 2)


def test_of_files_that_are_asked_for_in_turn_as_many_are_kept_as_there_is_room_for(
    root: Path, board: memoryview, clock: Clock
) -> None:
    for number in range(20):
        (root / f"{number}").touch()
    files, _ = keeping(root, board, entries=15)
    for turn in range(4):
        clock.ahead = turn * 5.0
        for number in range(20):
            assert got(files, f"/{number}") == (200, b"")
    assert counted(board) == (15 * 3, 20 + 5 * 3, 0)


def test_the_spellings_of_a_path_share_an_entry(root: Path, board: memoryview, clock: Clock) -> None:
    (root / "dir").mkdir()
    (root / "dir/file").write_bytes(b"x")
    files, cache = keeping(root, board)
    for number in range(1, 20):
        assert got(files, "/" * number + "dir" + "/" * (20 - number) + "file") == (200, b"x")
    assert [path for _, path in cache.entries] == ["/dir/file"]
    assert counted(board) == (18, 1, 0)


def test_the_paths_count_as_the_content_does(root: Path, board: memoryview, clock: Clock) -> None:
    """Circular symlinks give a file any number of names."""
    (root / "here").symlink_to(".")
    (root / "file").write_bytes(b"x")
    files, cache = keeping(root, board, memory=50 * 1024)
    for number in range(40):
        assert got(files, "/here" * number + "/file") == (200, b"x")
    held = sum(len(path) + sum(map(len, entry.probes)) + OVERHEAD for (_, path), entry in cache.entries.items())
    assert 45 * 1024 < held <= cache.cost <= 50 * 1024


def test_what_there_is_in_several_codings_costs_what_it_takes(root: Path, board: memoryview, clock: Clock) -> None:
    for number in range(50):
        for ending in ("", ".gz", ".br", ".zst"):
            (root / f"{number}.txt{ending}").write_bytes(b"x")
    cache = make_cache(board)
    files, renderer = serve(root, cache=cache, precompressed=True), Renderer("prefork")

    def ask_for_every_coding(files: Files, number: int) -> None:
        for coding in ("identity", "gzip", "br", "zstd"):
            response = ask(files, f"/{number}.txt", accept_encoding=coding)
            renderer.head(response, RequestLine("GET", "/", "/", "", "", 1), True, 5.0)

    warm = serve(root, cache=make_cache(board), precompressed=True)
    for _ in range(50):  # the interpreter and the modules make some things once (100 kB on 3.13): not the cache's
        ask_for_every_coding(warm, 0)
    gc.collect()
    tracemalloc.start()
    for number in range(50):
        ask_for_every_coding(files, number)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(cache.entries) == 50
    assert 50_000 < size < cache.cost


def test_a_path_that_is_too_long_is_served_and_not_kept(root: Path, board: memoryview, clock: Clock) -> None:
    deep = root
    for _ in range(5):
        deep /= "d" * 250
        deep.mkdir()
    (deep / "file").write_bytes(b"x")
    files, cache = keeping(root, board)
    assert got(files, "/" + "/".join(["d" * 250] * 5) + "/file") == (200, b"x")
    assert not cache.entries


def test_the_entries_are_bounded(root: Path, board: memoryview, clock: Clock) -> None:
    for number in range(20):
        (root / f"{number}").touch()
    files, cache = keeping(root, board, entries=7)
    for _ in range(3):
        for number in range(20):
            assert got(files, f"/{number}") == (200, b"")
    assert len(cache.entries) == 7


@pytest.mark.parametrize("bounds", [{"memory": 0}, {"entries": 0}])
def test_without_room_nothing_is_kept_and_all_is_served(
    root: Path, board: memoryview, clock: Clock, bounds: dict[str, int]
) -> None:
    (root / "small").write_bytes(b"s")
    (root / "large").write_bytes(b"l" * (SMALL + 1))
    before = descriptors_at_rest()
    files, cache = keeping(root, board, **bounds, open_files=0)
    for _ in range(2):
        assert got(files, "/small") == (200, b"s")
        assert got(files, "/large") == (200, b"l" * (SMALL + 1))
    assert not cache.entries
    assert descriptors() == before


def test_a_response_in_somebodys_hand_outlives_its_eviction(root: Path, board: memoryview, clock: Clock) -> None:
    for name in ("a", "b"):
        (root / name).write_bytes(name.encode() * 10)
        (root / f"large-{name}").write_bytes(name.encode() * (SMALL + 1))
    files, _ = keeping(root, board, entries=1)
    before = descriptors_at_rest()
    small = ask(files, "/a")
    clock.ahead = 20.0
    large = ask(files, "/large-a")
    clock.ahead = 40.0
    assert got(files, "/large-b") == (200, b"b" * (SMALL + 1))
    clock.ahead = 60.0
    assert got(files, "/b") == (200, b"b" * 10)
    assert content(small) == b"a" * 10
    assert content(large) == b"a" * (SMALL + 1)
    assert descriptors() == before


def test_what_is_put_out_is_not_repeated(root: Path, board: memoryview, clock: Clock) -> None:
    for name in ("a", "b"):
        (root / name).write_bytes(name.encode())
    files, _ = keeping(root, board, entries=1)
    response = ask(files, "/a")
    assert isinstance(response, Repeatable)
    response.memo.until = response.valid
    clock.ahead = 20.0
    ask(files, "/b")
    assert response.memo.until == response.valid == 0.0
    assert response.memo.response is not response


# ---- large files


def drop(response: Response) -> None:
    assert isinstance(response.body, FileSegment)
    response.body.close()


def test_a_large_file_is_opened_once_and_each_response_has_all_of_it(
    root: Path, board: memoryview, clock: Clock
) -> None:
    (root / "large").write_bytes(b"l" * (SMALL + 1))
    before = descriptors_at_rest()
    files, _ = keeping(root, board)
    responses = [ask(files, "/large") for _ in range(3)]
    assert descriptors() == before + 1
    for response in responses:
        assert content(response) == b"l" * (SMALL + 1)
    assert descriptors() == before + 1
    (root / "large").unlink()
    clock.ahead = 1.1
    assert got(files, "/large")[0] == 404
    assert descriptors() == before


def test_a_part_of_a_large_file_that_has_changed_in_place_does_not_pass_for_the_old_one(
    root: Path, board: memoryview, clock: Clock
) -> None:
    (root / "large").write_bytes(b"l" * (SMALL + 1))
    files, _ = keeping(root, board)
    first = ask(files, "/large")
    drop(first)
    known = field(first, "ETag") or ""
    part = ask(files, "/large", range="bytes=0-9", if_range=known)
    assert (part.status, content(part)) == (206, b"l" * 10)
    while field(part, "ETag") == known:  # the kernel's clock ticks every few milliseconds
        with open(root / "large", "r+b") as file:
            file.write(b"n" * (SMALL + 1))
        part = ask(files, "/large", range="bytes=0-9")
        assert (part.status, content(part)) == (206, b"n" * 10)
    whole = ask(files, "/large", range="bytes=0-9", if_range=known)
    assert (whole.status, content(whole)) == (200, b"n" * (SMALL + 1))


def test_the_files_held_open_are_bounded(root: Path, board: memoryview, clock: Clock) -> None:
    before = descriptors_at_rest()
    files, cache = keeping(root, board, open_files=2)
    for number in range(5):
        (root / f"{number}").write_bytes(b"l" * (SMALL + 1))
        drop(ask(files, f"/{number}"))
    assert descriptors() == before + 2
    assert cache.shed()
    assert descriptors() == before
    assert not cache.shed()


def test_what_nobody_asks_for_is_closed(root: Path, board: memoryview) -> None:
    before = descriptors_at_rest()
    files, cache = keeping(root, board, idle=0.01, valid=0)
    (root / "large").write_bytes(b"l" * (SMALL + 1))
    loop = Loop(make_poller())
    loop.spawn(cache.sweep(loop), "closing")
    opened = descriptors() - before
    loop.turn()
    drop(ask(files, "/large"))
    assert descriptors() == before + opened + 1
    while descriptors() > before + opened:
        loop.turn(0.05)
    loop.close()
    assert descriptors() == before


def test_without_descriptors_those_held_open_make_room(
    root: Path, board: memoryview, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = keeping(root, board)
    for name in ("a", "b"):
        (root / name).write_bytes(b"l" * (SMALL + 1))
    drop(ask(files, "/a"))
    before, real_open = descriptors(), os.open

    def scarce(*arguments: Any, **how: Any) -> int:
        if descriptors() > before:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real_open(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *of, **how: scarce(*of, **how))
        response = ask(files, "/b")  # which takes two at a time
    assert response.status == 200
    drop(response)
    assert descriptors() == before  # this one is kept in the place of the other
