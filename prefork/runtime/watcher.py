"""The watcher: a thread that looks now and then whether the leader is held up in a call (threads.py). Owns the rule by
which a call loses the loop.

A call that waits leaves the interpreter, and the processor, to others. The watcher finds it by its thread's CPU clock,
which stands still, and takes the loop from it at once. A call that computes loses the loop after a whole tick. Before
that, the interpreter would go back and forth between the call and the new leader, and calls of a millisecond would gain
nothing.
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

TICK = 0.005  # seconds between two looks; also how long a call may compute before it loses the loop
PROBE = 0.001  # seconds: a younger call is let alone; an older one is looked at twice, so far apart
IDLE_TICKS = 20  # looks without any call, after which the watcher parks: an idle process has no wake-ups

# A token holds at most one entry: what its thread does as the leader without the loop, the timeout of that, and when it
# began (monotonic seconds). It is empty while the leader runs the loop, and once the thread leads no more.
Token = deque[tuple[Any, float, float]]


class Watcher:
    """The watcher of `pool`. `parked`: it sleeps until a thread that has put an entry into its token calls `wake`.

    `tick` seconds pass between two looks, and a call may compute for so long. A call younger than `probe` seconds is
    let alone.
    """

    def __init__(self, pool: ThreadPool, tick: float = TICK, probe: float = PROBE) -> None:
        self.parked = False
        self._pool = pool
        self._tick = tick
        self._probe = probe
        self._rouse = threading.Lock()
        self._rouse.acquire()

    def run(self) -> None:
        """Look until the pool's loop is over."""
        pool, idle = self._pool, 0
        while not pool.is_over:
            forks.leave_if_forked()
            sleep(self._tick)
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
        """Take the loop from the call that this entry is about, if the call holds it up."""
        pool, since, probe = self._pool, held[2], self._probe
        while monotonic() - since >= probe:
            used, thread = _used(pool.leader), pool.leader
            sleep(probe)
            if pool.held() is not held:
                return
            if monotonic() - since >= self._tick or _used(thread) - used < probe / 2:
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
    """Seconds of processor time that a thread of this process has used. Where the platform does not tell (macOS), the
    thread counts as computing.
    """
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError):
        return monotonic()
