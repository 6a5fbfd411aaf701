"""The vigil: the master looks now and then whether the loop of each worker still turns, and has those replaced that
do not.

A worker stamps when its turn begins and ends (Loop.pulse, 60 ns a turn), so one that idles is told from one that is
stuck without a word between them: it is not woken for it.
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

LOOK = 1.0  # seconds between two looks, at the least; and a tenth of the time-out
ANSWER = 1.0  # seconds that a stuck worker has to say where it is


async def keep(loop: Loop, workers: Callable[[], Iterable[Child]], timeout: float) -> NoReturn:
    """For ever: have each of `workers` replaced whose turn takes `timeout` seconds, or which SIGSTOP holds as long."""
    while True:
        await loop.sleep(max(LOOK, timeout / 10))
        for child in tuple(workers()):
            if child.stuck >= timeout and not child.departing.is_set():
                await _give_up(loop, child, child.stuck)


async def _give_up(loop: Loop, child: Child, seconds: float) -> None:
    """Have it say where it is, and be replaced."""
    if child.stopped < inf:
        log.error("worker %d has been stopped for %.1f s; replacing it", child.pid, seconds)
        child.departing.set()
        return
    log.error("worker %d is stuck: its loop has not turned for %.1f s; replacing it", child.pid, seconds)
    child.ask(WHERE)
    try:
        with loop.within(ANSWER):
            await child.departing.wait()
    except TimedOut:  # not even another thread gets to run: what remains is the dump that needs no interpreter
        child.signal(signal.SIGUSR2)
        child.departing.set()
