"""The watchdog: looks now and then whether the loop of each worker still turns, and has stuck workers replaced.

A worker notes in shared memory when a turn of its loop begins and ends (Loop.pulse, 60 ns a turn). So the master tells
an idle worker from a stuck one without waking it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from math import inf
from typing import NoReturn

from prefork.errors import TimedOut
from prefork.logger import log
from prefork.process.messages import WHERE
from prefork.process.pool.child import Child
from prefork.runtime.loop import Loop

LOOK_INTERVAL = 1.0  # seconds between two looks, or a tenth of the time-out where that is more
STACKS_TIMEOUT = 1.0  # seconds that a stuck worker has to log where it is


async def keep(
    loop: Loop,
    workers: Callable[[], Iterable[Child]],
    timeout: float,
    *,
    look_interval: float = LOOK_INTERVAL,
    stacks_timeout: float = STACKS_TIMEOUT,
) -> NoReturn:
    """Replace each of `workers` whose loop is in one turn for `timeout` seconds, or that SIGSTOP holds as long. Look
    every `look_interval` seconds, or each tenth of `timeout` where that is more. A stuck worker has `stacks_timeout`
    seconds to log where it is. Never returns.
    """
    while True:
        await loop.sleep(max(look_interval, timeout / 10))
        for child in tuple(workers()):
            if child.stuck >= timeout and not child.departing.is_set():
                await _give_up(loop, child, child.stuck, stacks_timeout)


async def _give_up(loop: Loop, child: Child, seconds: float, stacks_timeout: float) -> None:
    """Have the worker log where it is, and have it replaced. A worker that is stopped can log nothing."""
    if child.stopped < inf:
        log.error("worker %d has been stopped for %.1f s; replacing it", child.pid, seconds)
        child.departing.set()
        return
    log.error("worker %d is stuck: its loop has not turned for %.1f s; replacing it", child.pid, seconds)
    child.ask(WHERE)
    try:
        with loop.within(stacks_timeout):
            await child.departing.wait()
    except TimedOut:  # no thread of the worker gets to run; the dump on SIGUSR2 needs no interpreter
        child.signal(signal.SIGUSR2)
        child.departing.set()
