from __future__ import annotations

import json
import time

import msgspec
import pytest

from prefork.observe.metrics import snapshot
from prefork.shared.counters import ACCEPTED, BUSY, BUSY_UNTIL, CONNECTIONS, REQUESTS, SENT, STATUS_CLASS
from prefork.shared.scoreboard import STATE, Order, Scoreboard, State


def make_board() -> Scoreboard:
    board = Scoreboard(4)
    board.occupy(1, 11, 1)
    board.slot(1)[REQUESTS] = 100
    board.vacate(1)
    board.occupy(2, 12, 2)
    slot = board.slot(2)
    slot[STATE] = State.SERVING
    slot[ACCEPTED], slot[CONNECTIONS], slot[REQUESTS], slot[SENT] = 3, 2, 5, 4096
    slot[STATUS_CLASS + 2], slot[STATUS_CLASS + 4] = 4, 1
    slot[BUSY], slot[BUSY_UNTIL] = 2, int((time.monotonic() + 60) * 1000)
    board.order(2, Order.SERVE)
    return board


def test_a_snapshot_shows_each_worker_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    board, now = make_board(), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    (worker,) = json.loads(msgspec.json.encode(snapshot(board)))["workers"]
    assert 60 <= worker.pop("age") < 70
    assert worker.pop("started") > 1_700_000_000
    assert worker == {
        "slot": 2,
        "pid": 12,
        "generation": 2,
        "state": "serving",
        "busy": 2,
        "accepted": 3,
        "connections": 2,
        "requests": 5,
        "responses": {"1xx": 0, "2xx": 4, "3xx": 0, "4xx": 1, "5xx": 0},
        "sent": 4096,
        "inline": 0,
        "handed_over": 0,
        "takeovers": 0,
        "queued": 0,
        "repeats": 0,
        "file_cache": {"hits": 0, "misses": 0, "evictions": 0},
        "lost_lines": {"access": 0, "error": 0},
    }


def test_a_server_is_ready_until_it_is_to_stop() -> None:
    board = make_board()
    assert snapshot(board)["ready"] is True
    board.stop()
    assert snapshot(board)["ready"] is False
    assert len(board.workers()) == 1


def test_a_server_is_ready_while_a_worker_serves() -> None:
    board = make_board()
    board.occupy(3, 13, 2)
    assert (snapshot(board)["ready"], snapshot(board)["serving"]) == (True, 1)
    board.hold(2, True)
    assert (snapshot(board)["ready"], snapshot(board)["serving"], snapshot(board)["stopping"]) == (False, 0, False)


def test_totals_include_departed_workers() -> None:
    totals = json.loads(json.dumps(snapshot(make_board())))["totals"]
    assert (totals["requests"], totals["connections"], totals["sent"]) == (105, 2, 4096)


def test_a_clock_set_back_makes_no_negative_age(monkeypatch: pytest.MonkeyPatch) -> None:
    board, now = make_board(), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    (worker,) = json.loads(json.dumps(snapshot(board)))["workers"]
    assert worker["age"] == 0
