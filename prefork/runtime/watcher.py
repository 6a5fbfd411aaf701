"""The watcher: a thread that looks, now and then, whether the leader is held up in a call (threads.py).

A call that waits gives the interpreter to others, and the processor too: it is found by its thread's clock, which
stands still, and loses the loop at once. A call that computes loses it when it has done so for a whole TICK; until then
the interpreter would go back and forth between it and the new leader, to no avail for those that take a millisecond.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from prefork.runtime import forks

if TYPE_CHECKING:
    from prefork.runtime.threads import ThreadPool

TICK = 0.005  # seconds between two looks, and that a call may compute
SHORT = 0.001  # seconds: a call that is younger is let alone, and one that is older is looked at twice in this time
IDLE_TICKS = 20  # looks without any call, after which the watcher parks: an idle process makes no wake-ups

# An entry is what the leader does, its timeout, and when it has begun (monotonic seconds). There is none where it does
# nothing, or leads no more.
Token = deque[tuple[Any, float, float]]


class Watcher:
    """That of `pool`. `parked`: it sleeps until `wake`, to be called by who puts a token down."""

    def __init__(self, pool: ThreadPool) -> None:
        self.parked = False
        self._pool = pool
        self._rouse = threading.Lock()
        self._rouse.acquire()

    def run(self) -> None:
        """Until the pool's loop is over."""
        pool, idle = self._pool, 0
        while not pool.is_over:
            forks.leave_if_forked()
            sleep(TICK)
            pool.publish()
            held = pool.held()
            if held is not None:
                idle = 0
                self._attend(held)
                continue
            idle += 1
            if idle >= IDLE_TICKS:
                idle = 0
                self._park()

    def _attend(self, held: tuple[Any, float, float]) -> None:
        """See to it that this does not hold up the loop."""
        pool, since = self._pool, held[2]
        while monotonic() - since >= SHORT:
            used, thread = _used(pool.leader), pool.leader
            sleep(SHORT)
            if pool.held() is not held:
                return
            if monotonic() - since >= TICK or _used(thread) - used < SHORT / 2:
                pool.depose()
                return

    def _park(self) -> None:
        self.parked = True
        if self._pool.held() is None:
            forks.leave_if_forked()
            self._rouse.acquire()
        self.parked = False

    def wake(self) -> None:
        self.parked = False
        with suppress(RuntimeError):  # it is awake already
            self._rouse.release()


def _used(thread: int) -> float:
    """Seconds of processor time that a thread of this process has used. Where the platform does not tell (macOS), it
    counts as computing.
    """
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError):
        return monotonic()
