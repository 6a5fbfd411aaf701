"""Metrics: the scoreboard as plain data, for the status page and the control socket. Owns the names of the figures."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefork.runtime.threads import DELEGATED, INLINE, QUEUED, TAKEOVERS
from prefork.shared.counters import (
    ACCEPTED,
    ACCESS_LOST,
    CALLS,
    CONNECTIONS,
    ERROR_LOST,
    FILE_EVICTIONS,
    FILE_HITS,
    FILE_MISSES,
    REPEATS,
    REQUESTS,
    SENT,
    STATUS_CLASS,
)
from prefork.shared.scoreboard import Board, State


def snapshot(scoreboard: Board) -> dict[str, object]:
    """The figures of the moment, JSON-able.

    The server is `ready` for clients if a worker serves and the server is not `stopping`; `serving` is the number of
    workers that serve. `totals` are counted since the master started. Of each of the `workers`, `started` is Unix time,
    `age` is in seconds, `sent` in bytes, and `busy` is a number of connections (shared/activity.py).
    """
    now = time.time()
    rows, busy = scoreboard.workers(), scoreboard.busy()
    serving = sum(row.state is State.SERVING for row in rows)
    workers = [
        {
            "slot": row.index,
            "pid": row.pid,
            "generation": row.generation,
            "state": row.state.name.lower(),
            "started": row.started,
            "age": max(0.0, round(now - row.started, 3)),
            "busy": busy[row.index - 1],
            **_figures(row.counts),
        }
        for row in rows
    ]
    return {
        "ready": serving > 0 and not scoreboard.stopping,
        "stopping": scoreboard.stopping,
        "serving": serving,
        "totals": _figures(scoreboard.totals()),
        "workers": workers,
    }


def _figures(counts: Sequence[int]) -> dict[str, object]:
    return {
        "accepted": counts[ACCEPTED],
        "connections": counts[CONNECTIONS],
        "requests": counts[REQUESTS],
        "responses": {f"{digit}xx": counts[STATUS_CLASS + digit] for digit in range(1, 6)},
        "sent": counts[SENT],
        "inline": counts[CALLS + INLINE],
        "handed_over": counts[CALLS + DELEGATED],
        "takeovers": counts[CALLS + TAKEOVERS],
        "queued": counts[CALLS + QUEUED],
        "repeats": counts[REPEATS],
        "file_cache": {
            "hits": counts[FILE_HITS],
            "misses": counts[FILE_MISSES],
            "evictions": counts[FILE_EVICTIONS],
        },
        "lost_lines": {"access": counts[ACCESS_LOST], "error": counts[ERROR_LOST]},
    }
