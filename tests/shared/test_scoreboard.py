"""The scoreboard: what workers count and say of themselves, what the master says of them, and who can write what."""

from __future__ import annotations

import mmap
import os
import time
import traceback
from collections.abc import Callable
from itertools import count
from math import inf, nan
from pathlib import Path

import pytest

from prefork.errors import BootError
from prefork.shared.activity import SPAN
from prefork.shared.counters import (
    ACCEPTED,
    BUSY,
    BUSY_BEFORE,
    BUSY_UNTIL,
    CONNECTIONS,
    REQUESTS,
    SENT,
    STATUS_CLASS,
    WIDTH,
)
from prefork.shared.scoreboard import PULSE, STATE, STUCK, Board, Order, Scoreboard, State

ODD = [2**64 - 1, 2**63, 7]
PULSES = [nan, -1.0, -inf, inf, 1e12]


def in_worker(scoreboard: Scoreboard, index: int, work: Callable[[Board, memoryview], object]) -> int:
    """Fork a worker for slot `index` that does `work` with the board and its own page, and leaves; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            board = scoreboard.enter_child()
            work(board, board.map_own_page(index, scoreboard.pages))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def pulse_of(page: memoryview) -> memoryview:
    return page[PULSE : PULSE + 1].cast("B").cast("d")


def mappings() -> set[str]:
    """What this process has mapped of scoreboards."""
    return {line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:prefork" in line}


def memory_descriptors() -> set[str]:
    """The descriptors by which it could map more."""
    found = {descriptor: os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in os.listdir("/proc/self/fd")}
    return {descriptor for descriptor, name in found.items() if name.startswith("/memfd:prefork")}


# ---- what is read


def test_the_master_reads_what_its_workers_count() -> None:
    board = Scoreboard(4)

    def work(_: Board, page: memoryview) -> None:
        for _ in range(1000):
            page[REQUESTS] += 1
            page[STATUS_CLASS + 2] += 1
            page[SENT] += index
        page[CONNECTIONS] = 3

    for index in (1, 2, 3):
        assert board.free() == index
        board.occupy(index, 10 + index, 7)
        assert in_worker(board, index, work) == 0
    rows = board.workers()
    assert [(row.index, row.pid, row.generation) for row in rows] == [(n, 10 + n, 7) for n in (1, 2, 3)]
    assert [row.counts[SENT] for row in rows] == [1000, 2000, 3000]
    totals = board.totals()
    assert len(totals) == WIDTH
    assert (totals[REQUESTS], totals[STATUS_CLASS + 2], totals[SENT], totals[CONNECTIONS]) == (3000, 3000, 6000, 9)


def test_workers_see_one_another_and_what_the_master_asks_of_them() -> None:
    scoreboard = Scoreboard(2)
    scoreboard.occupy(1, os.getpid(), 3)
    scoreboard.occupy(2, os.getpid(), 3)
    scoreboard.slot(1)[CONNECTIONS] = 5
    scoreboard.order(2, Order.SERVE)

    def work(board: Board, page: memoryview) -> None:
        assert board.column(CONNECTIONS) == [5, 0]
        assert board.generations() == [3, 3]
        assert board.workers()[0].counts[CONNECTIONS] == 5
        assert board.orders(2) == (1, Order.SERVE)
        assert not board.stopping

    assert in_worker(scoreboard, 2, work) == 0


def test_all_see_how_many_connections_of_each_worker_are_busy_as_long_as_that_can_be_true() -> None:
    board = Scoreboard(5)
    now = time.monotonic()
    for index in range(1, 6):
        board.occupy(index, 10 + index, 1)
        page = board.slot(index)
        page[BUSY], page[BUSY_BEFORE], page[BUSY_UNTIL] = index, 10, int((now + 60) * 1000)
    assert board.busy() == [11, 12, 13, 14, 15]
    for index in (2, 3, 4, 5):
        board.slot(index)[BUSY_UNTIL] = int((now - 60) * 1000)
    pulse_of(board.slot(3))[0] = now - 60 + SPAN / 2  # it has been in one turn since then, and cannot count
    pulse_of(board.slot(4))[0] = now - 61
    pulse_of(board.slot(5))[0] = nan
    assert board.busy() == [11, 0, 3, 14, 0]


def test_a_worker_serves_when_it_is_told_to_and_says_so() -> None:
    board = Scoreboard(1)
    before = time.time()
    board.occupy(1, 4711, 1)
    assert before - 0.001 <= board.workers()[0].started <= time.time()
    board.slot(1)[STATE] = State.SERVING
    assert board.state(1) is State.BOOTING
    board.order(1, Order.SERVE)
    assert board.state(1) is State.SERVING
    board.slot(1)[STATE] = State.DRAINING  # by itself: somebody has sent it SIGTERM
    assert board.state(1) is State.DRAINING
    board.slot(1)[STATE] = State.SERVING
    board.order(1, Order.LEAVE)
    assert board.state(1) is State.DRAINING


def test_a_worker_that_is_stopped_or_whose_loop_does_not_turn_does_not_serve() -> None:
    board = Scoreboard(1)
    board.occupy(1, 4711, 1)
    board.order(1, Order.SERVE)
    page = board.slot(1)
    page[STATE] = State.SERVING
    pulse_of(page)[0] = time.monotonic() - STUCK
    assert board.state(1) is State.STUCK
    pulse_of(page)[0] = time.monotonic()
    assert board.state(1) is State.SERVING
    board.hold(1, True)
    assert board.state(1) is State.STOPPED
    board.hold(1, False)
    assert board.state(1) is State.SERVING


def test_a_worker_that_serves_before_its_slot_is_occupied_stays_serving() -> None:
    board = Scoreboard(1)
    board.slot(1)[STATE] = State.SERVING
    board.slot(1)[REQUESTS] += 1
    board.occupy(1, 4711, 1)
    board.order(1, Order.SERVE)
    (row,) = board.workers()
    assert (row.state, row.counts[REQUESTS]) == (State.SERVING, 1)


def test_a_slot_reserved_before_the_fork_is_not_free() -> None:
    board = Scoreboard(2)
    board.occupy(1, 0, 1)
    assert board.free() == 2
    board.occupy(1, 4711, 1)
    assert [row.pid for row in board.workers()] == [4711]


def test_a_departed_worker_leaves_its_counts_but_not_its_connections() -> None:
    board = Scoreboard(1)
    for _ in range(2):
        board.occupy(1, 4711, 1)
        board.order(1, Order.SERVE)
        slot = board.slot(1)
        slot[ACCEPTED], slot[CONNECTIONS], slot[REQUESTS], slot[STATE] = 10, 4, 20, State.SERVING
        slot[BUSY], slot[BUSY_BEFORE], slot[BUSY_UNTIL] = 1, 2, 3
        pulse_of(slot)[0] = 1.0
        board.vacate(1)
    assert board.workers() == []
    assert not any(board.slot(1).tolist())
    assert board.orders(1) == (0, Order.NONE)
    totals = board.totals()
    assert (totals[ACCEPTED], totals[CONNECTIONS], totals[REQUESTS], totals[BUSY]) == (20, 0, 40, 0)


def test_a_vacated_slot_is_free_again_and_none_is_left_beyond_the_last() -> None:
    board = Scoreboard(2)
    board.occupy(1, 11, 1)
    board.occupy(2, 12, 1)
    with pytest.raises(BootError, match="all 2 scoreboard slots are taken"):
        board.free()
    board.vacate(1)
    assert board.free() == 1


def test_connections_cannot_wrap_below_zero() -> None:
    slot = Scoreboard(1).slot(1)
    with pytest.raises(ValueError, match="format 'Q'"):
        slot[CONNECTIONS] -= 1
    assert slot[CONNECTIONS] == 0


# ---- what is believed


def test_counts_beyond_what_can_be_counted_in_that_time_are_left_out_and_spoil_no_others() -> None:
    board = Scoreboard(2)
    for index in (1, 2):
        board.occupy(index, 4711, 1)
        board.slot(index)[SENT], board.slot(index)[REQUESTS] = 1 << 39, 5
    board.slot(2)[SENT] = 2**64 - 1
    assert [row.counts[SENT] for row in board.workers()] == [1 << 39, 0]
    assert board.totals()[SENT] == 1 << 39
    board.vacate(2)
    assert (board.totals()[SENT], board.totals()[REQUESTS]) == (1 << 39, 10)


@pytest.mark.parametrize("word", ODD)
def test_a_state_that_there_is_not_is_unknown(word: int) -> None:
    board = Scoreboard(1)
    board.occupy(1, 4711, 1)
    board.order(1, Order.SERVE)
    board.slot(1)[STATE] = word
    assert [row.state for row in board.workers()] == [State.UNKNOWN]


@pytest.mark.parametrize("pulse", PULSES)
def test_a_pulse_that_no_loop_can_have_written_is_told_from_one_that_idles(pulse: float) -> None:
    board = Scoreboard(1)
    board.occupy(1, 4711, 1)
    board.order(1, Order.SERVE)
    page = board.slot(1)
    page[STATE] = State.SERVING
    assert (board.turn(1), board.state(1)) == (inf, State.SERVING)
    pulse_of(page)[0] = pulse
    assert (board.turn(1), board.state(1)) == (-inf, State.UNKNOWN)


# ---- who can write


def test_a_worker_can_write_its_own_page_and_nothing_else_whatever_it_tries() -> None:
    others = mappings(), memory_descriptors()  # those of other tests
    scoreboard = Scoreboard(3)
    for index in (1, 2, 3):
        scoreboard.occupy(index, 4711, 1)

    def work(board: Board, page: memoryview) -> None:
        for view in (board.slot(1), board.slot(2)):
            with pytest.raises(TypeError):
                view[0] = 1
        ours = mappings() - others[0]
        writable = [line.split()[0] for line in ours if "w" in line.split()[1]]
        (span,) = [[int(end, 16) for end in bounds.split("-")] for bounds in writable]
        assert span[1] - span[0] == mmap.ALLOCATIONGRANULARITY
        with open("/proc/self/mem", "r+b", buffering=0) as memory:  # past the protection of pages, where that goes
            for line in ours:
                begin = int(line.partition("-")[0], 16)
                memory.seek(begin)
                if begin == span[0]:
                    memory.write(b"\xff" * (span[1] - begin))
                else:
                    with pytest.raises(OSError, match=r"Input/output error|Bad address"):
                        memory.write(b"\xff")
        assert memory_descriptors() <= others[1]

    assert in_worker(scoreboard, 2, work) == 0
    assert [row.counts for row in scoreboard.workers()] == [(0,) * WIDTH] * 3
    assert set(scoreboard.slot(2).tolist()) == {2**64 - 1}
    assert not any(scoreboard.slot(1).tolist() + scoreboard.slot(3).tolist())
    assert [row.pid for row in scoreboard.workers()] == [4711] * 3
    assert not scoreboard.stopping


def test_nobody_can_cut_the_memory_off_below_those_who_look_at_it() -> None:
    scoreboard = Scoreboard(1)
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(scoreboard.pages, size)
    assert scoreboard.totals() == (0,) * WIDTH


def test_where_there_is_no_such_memory_a_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    scoreboard = Scoreboard(2)
    scoreboard.occupy(1, 4711, 1)
    scoreboard.occupy(2, 4711, 1)

    def work(board: Board, page: memoryview) -> None:
        page[REQUESTS] = 5
        with pytest.raises(TypeError):
            board.slot(1)[REQUESTS] = 5

    assert in_worker(scoreboard, 2, work) == 0
    assert [row.counts[REQUESTS] for row in scoreboard.workers()] == [0, 5]


def test_pages_do_not_overlap() -> None:
    board = Scoreboard(3)
    marks = count(1)
    for index in range(1, 4):
        for word in range(PULSE + 1):
            board.slot(index)[word] = next(marks)
    assert board.slot(1)[:WIDTH].tolist() == list(range(1, WIDTH + 1))
    assert len(board.slot(1)) * 8 == mmap.ALLOCATIONGRANULARITY
