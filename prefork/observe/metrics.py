"""The scoreboard as plain data, for the status page and the control socket. Owns the names its figures are shown by."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prefork.http.counts import (
    ACCEPTED,
    CONNECTIONS,
    FILE_EVICTIONS,
    FILE_HITS,
    FILE_MISSES,
    QUEUED,
    REPEATS,
    REQUESTS,
    SENT,
    STATUS_CLASS,
    TAKEOVERS,
)
from prefork.observe.scoreboard import Board


def snapshot(scoreboard: Board) -> dict[str, object]:
    """JSON-able: whether the server is `ready` for clients, which it is until it is told to stop; totals since the
    master started; and workers. `started` is Unix time, `age` seconds, `sent` bytes.
    """
    now = time.time()
    workers = [
        {
            "slot": row.index,
            "pid": row.pid,
            "generation": row.generation,
            "state": row.state.name.lower(),
            "started": row.started,
            "age": max(0.0, round(now - row.started, 3)),
            **_figures(row.counts),
        }
        for row in scoreboard.workers()
    ]
    return {"ready": not scoreboard.stopping, "totals": _figures(scoreboard.totals()), "workers": workers}


def _figures(counts: Sequence[int]) -> dict[str, object]:
    return {
        "accepted": counts[ACCEPTED],
        "connections": counts[CONNECTIONS],
        "requests": counts[REQUESTS],
        "responses": {f"{digit}xx": counts[STATUS_CLASS + digit] for digit in range(1, 6)},
        "sent": counts[SENT],
        "takeovers": counts[TAKEOVERS],
        "queued": counts[QUEUED],
        "repeats": counts[REPEATS],
        "file_cache": {
            "hits": counts[FILE_HITS],
            "misses": counts[FILE_MISSES],
            "evictions": counts[FILE_EVICTIONS],
        },
    }
