from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from prefork.errors import BootError
from prefork.http.counts import ACCEPTED, CONNECTIONS, REQUESTS, SENT, STATUS_CLASS, WIDTH
from prefork.observe.scoreboard import PID, STATE, Scoreboard, State


def in_child(work: Callable[[], None]) -> int:
    """Fork a process that does `work` and leaves; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_master_reads_what_its_workers_count() -> None:
    board = Scoreboard(4)

    def work() -> None:
        slot = board.slot(index)
        slot[STATE] = State.SERVING
        for _ in range(1000):
            slot[REQUESTS] += 1
            slot[STATUS_CLASS + 2] += 1
            slot[SENT] += index
        slot[CONNECTIONS] = 3

    children = {}
    for index in (1, 2, 3):
        assert board.free() == index
        children[index] = in_child(work)
        board.occupy(index, children[index], 7)
    for pid in children.values():
        wait_for(pid)
    rows = board.workers()
    assert [(row.index, row.pid, row.generation) for row in rows] == [(n, children[n], 7) for n in (1, 2, 3)]
    assert [row.counts[SENT] for row in rows] == [1000, 2000, 3000]
    totals = board.totals()
    assert len(totals) == WIDTH
    assert (totals[REQUESTS], totals[STATUS_CLASS + 2], totals[SENT], totals[CONNECTIONS]) == (3000, 3000, 6000, 9)


def test_workers_see_one_another() -> None:
    board = Scoreboard(2)
    board.occupy(1, os.getpid(), 1)
    board.slot(1)[CONNECTIONS] = 5

    def work() -> None:
        assert board.workers()[0].counts[CONNECTIONS] == 5

    wait_for(in_child(work))


def test_a_worker_is_booting_until_it_says_otherwise() -> None:
    board = Scoreboard(1)
    before = time.time()
    board.occupy(1, 4711, 1)
    (row,) = board.workers()
    assert row.state is State.BOOTING
    assert before - 0.001 <= row.started <= time.time()
    board.slot(1)[STATE] = State.DRAINING
    assert board.workers()[0].state is State.DRAINING


def test_a_worker_that_serves_before_its_slot_is_occupied_stays_serving() -> None:
    board = Scoreboard(1)
    board.slot(1)[STATE] = State.SERVING
    board.slot(1)[REQUESTS] += 1
    board.occupy(1, 4711, 1)
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
        slot = board.slot(1)
        slot[ACCEPTED], slot[CONNECTIONS], slot[REQUESTS] = 10, 4, 20
        board.vacate(1)
    assert board.workers() == []
    assert board.slot(1).tolist() == [0] * len(board.slot(1))
    totals = board.totals()
    assert (totals[ACCEPTED], totals[CONNECTIONS], totals[REQUESTS]) == (20, 0, 40)


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


def test_sums_beyond_64_bits_wrap_around() -> None:
    board = Scoreboard(1)
    board.occupy(1, 4711, 1)
    for _ in range(2):
        board.slot(1)[SENT] = 2**64 - 1
        board.vacate(1)
    board.slot(1)[SENT] = 5
    assert board.totals()[SENT] == 3


def test_slots_are_whole_cache_lines_and_do_not_overlap() -> None:
    board = Scoreboard(3)
    assert len(board.slot(0)) * 8 % 64 == 0
    for index in range(4):
        board.slot(index)[PID] = index + 1
        board.slot(index)[0] = index + 10
    assert [(board.slot(n)[PID], board.slot(n)[0]) for n in range(4)] == [(n + 1, n + 10) for n in range(4)]
