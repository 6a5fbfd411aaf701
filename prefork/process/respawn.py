"""Respawn: how soon a worker's place gets another one. Owns the pauses, and what they are for.

A worker that had booted and met clients is replaced at once, however it died: a URL that kills its worker is one
client's doing, and a pause would turn it into an outage for all (gunicorn and nginx replace at once, too). A pause,
which doubles, is for those that cannot boot, or die young without having met a client: another attempt does no better.

Whatever the reason, nobody forks without end: each place has BURST workers at once, and RATE a second beyond those.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

YOUNG = 5.0  # seconds of being ready: a worker that dies before has not made it, unless it has met a client
LONGEST_PAUSE = 30.0  # seconds
BURST = 10
RATE = 2.0  # a second


class Respawn:
    """The pauses of one place; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._in_vain = 0  # workers in a row
        self._allowed = float(BURST)  # workers at once
        self._since = clock()

    def after_death(self, lived: float, clients: int) -> float:
        """Seconds until the next attempt, after a worker that was ready for `lived` seconds, 0 where it could not boot,
        and has accepted so many clients, by its own word: what it can gain by that is bounded by RATE.
        """
        self._in_vain = 0 if clients or lived >= YOUNG else self._in_vain + 1
        return max(pause_after(self._in_vain), self._take())

    def after_departure(self) -> float:
        """Seconds until the next attempt, after a worker that has asked to be replaced, and serves meanwhile."""
        return self._take()

    def _take(self) -> float:
        """Seconds until one more is allowed, which is taken."""
        now = self._clock()
        self._allowed = min(BURST, self._allowed + (now - self._since) * RATE) - 1
        self._since = now
        return max(0.0, -self._allowed / RATE)


def pause_after(in_vain: int) -> float:
    """Seconds until the next attempt, after so many workers in a row that came to nothing."""
    return min(LONGEST_PAUSE, 2.0 ** min(in_vain - 2, 5)) if in_vain > 1 else 0.0
