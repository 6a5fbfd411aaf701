"""Throttling: how often an operator is told of something that happens again and again. Owns no log: its user tells.

The first time is told at once. Later times are counted, and their number is told at most every `interval` seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from prefork.runtime.loop import Loop


class Throttle:
    """Decides whether it is time to tell. It reads no clock: `now` is the loop's, or any other in seconds that never
    goes back. It has no lock: one thread uses it, or several in turns.
    """

    __slots__ = ("_due", "_interval", "left_out")

    def __init__(self, interval: float) -> None:
        self.left_out = 0  # how often it has happened since it was last told
        self._interval = interval
        self._due = -inf

    def happened(self, now: float) -> int:
        """Count it. Returns how often it has happened since it was last told, with this time; 0: do not tell now."""
        self.left_out += 1
        return self.rest(now)

    def rest(self, now: float) -> int:
        """Returns how often it has happened since it was last told, if that may be told now; else 0."""
        count = self.left_out
        if not count or now < self._due:
            return 0
        self.left_out = 0
        self._due = now + self._interval
        return count


class ThrottledNotice:
    """Calls `tell` with how often it has happened, when a Throttle says so. A task of `loop` waits to tell the last
    ones, behind which nothing more happens. Only the thread that runs the loop may use it.
    """

    def __init__(self, loop: Loop, interval: float, tell: Callable[[int], None]) -> None:
        self._loop = loop
        self._interval = interval
        self._tell = tell
        self._throttle = Throttle(interval)
        self._waiting = False

    def happened(self) -> None:
        """Count it, and tell of it now or later."""
        count = self._throttle.happened(self._loop.now)
        if count:
            self._tell(count)
        elif not self._waiting:
            self._waiting = True
            self._loop.spawn(self._tell_the_rest(), "reporting repeated events")

    async def _tell_the_rest(self) -> None:
        try:
            while self._throttle.left_out:
                await self._loop.sleep(self._interval)
                count = self._throttle.rest(self._loop.now)
                if count:
                    self._tell(count)
        finally:
            self._waiting = False
