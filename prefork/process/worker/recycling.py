"""Recycling: replaces a worker that has answered enough requests, or holds too much memory. Owns the two checks.

This guards against applications that leak. The checks run only at the end of a turn of the loop, so an idle worker is
not woken for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import psutil

from prefork.logger import log
from prefork.runtime.loop import Loop
from prefork.settings.schema import Workers
from prefork.settings.wording import counted
from prefork.shared.counters import REQUESTS

SPREAD = 0.1  # of max_requests, more or less: workers that began together should not leave together
WEIGHING_INTERVAL = 1.0  # seconds between two checks of the memory, at least; each takes 20 us

Retire = Callable[[str], None]


def recycle(
    loop: Loop, workers: Workers, board: memoryview, retire: Retire, *, weighing_interval: float = WEIGHING_INTERVAL
) -> None:
    """Have `retire` called with the reason, again and again, once a limit of `workers` is reached. `board` is the
    worker's page of the scoreboard. At least `weighing_interval` seconds pass between two checks of the memory. To be
    called when the application has been imported.
    """
    if workers.max_requests:
        loop.after_turn.append(_counting(board, _spread(workers.max_requests), retire))
    if workers.max_memory:
        held = resident()
        if held < workers.max_memory:
            loop.after_turn.append(_weighing(loop, workers.max_memory, retire, weighing_interval))
        else:  # the next workers would begin with as much, and none would stay
            words = "a worker begins with %s, more than workers.max_memory (%s), which therefore has no effect"
            log.warning(words, mebibytes(held), mebibytes(workers.max_memory))


def resident() -> int:
    """The resident set size of this process in bytes, with the memory that it shares with others."""
    return int(psutil.Process().memory_info().rss)


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _spread(count: int) -> int:
    return max(1, round(count * random.uniform(1 - SPREAD, 1 + SPREAD)))


def _counting(board: memoryview, limit: int, retire: Retire) -> Callable[[], None]:
    def count() -> None:
        if board[REQUESTS] >= limit:
            retire(f"it has answered {counted(board[REQUESTS], 'request')} (workers.max_requests)")

    return count


def _weighing(loop: Loop, limit: int, retire: Retire, interval: float) -> Callable[[], None]:
    due = loop.now

    def weigh() -> None:
        nonlocal due
        if loop.now >= due:
            due = loop.now + interval
            held = resident()
            if held >= limit:
                retire(f"it holds {mebibytes(held)} of memory (workers.max_memory)")

    return weigh
