"""Respawn: how soon a worker's place gets another one. Owns the pauses, and what they are for.

A worker that had booted and met clients is replaced at once, however it died: a URL that kills its worker is one
client's doing, and a pause would turn it into an outage for all (gunicorn and nginx replace at once, too). A pause,
which doubles, is for those that cannot boot, or die young without having met a client: another attempt does no better.

Whatever the reason, nobody forks without end: each place has BURST workers at once, and beyond those RATE a second,
or BUSY_RATE where they have met clients: more than can boot, mostly, so that the others have what is left of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

YOUNG = 5.0  # seconds of being ready: a worker that dies before has not made it, unless it has met a client
LONGEST_PAUSE = 30.0  # seconds
BURST = 10
RATE = 2.0  # a second
BUSY_RATE = 20.0  # a second: with 2, one client that asked four times a second for what kills had two workers down


class Respawn:
    """The pauses of one place; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._in_vain = 0  # workers in a row
        self._idle = Allowance(RATE, clock)
        self._busy = Allowance(BUSY_RATE, clock)

    def after_death(self, lived: float, clients: int) -> float:
        """Seconds until the next attempt, after a worker that was ready for `lived` seconds, 0 where it could not boot,
        and has accepted so many clients, by its own word: what it can gain by that is bounded by BUSY_RATE.
        """
        self._in_vain = 0 if clients or lived >= YOUNG else self._in_vain + 1
        return max(pause_after(self._in_vain), (self._busy if clients else self._idle).take())

    def after_departure(self) -> float:
        """Seconds until the next attempt, after a worker that has asked to be replaced, and serves meanwhile."""
        return self._idle.take()


class Allowance:
    """BURST at once, and `rate` a second beyond those; `clock` is in seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._left = float(BURST)
        self._since = clock()

    def take(self) -> float:
        """Seconds until one more is allowed, which is taken."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._since) * self._rate) - 1
        self._since = now
        return max(0.0, -self._left / self._rate)


def pause_after(in_vain: int) -> float:
    """Seconds until the next attempt, after so many workers in a row that came to nothing."""
    return min(LONGEST_PAUSE, 2.0 ** min(in_vain - 2, 5)) if in_vain > 1 else 0.0
