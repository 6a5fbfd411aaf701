"""Respawn: how soon a worker that has ended is replaced. Owns the pauses before the next attempt.

A worker that had booted and accepted clients is replaced at once, however it died. A URL that kills its worker is one
client's doing, and a pause would turn it into an outage for all (gunicorn and nginx replace at once, too). After
workers that cannot boot, or that die young without a client, there is a pause, which doubles: another attempt would
mostly fail alike.

There is a limit for every reason, so that nothing forks without end. Each position may have BURST workers at once, and
beyond those RATE a second, or BUSY_RATE where the workers have accepted clients. BUSY_RATE is mostly more than can
boot, so that this position uses what the other workers leave of the CPU time.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

YOUNG = 5.0  # seconds of being ready: a worker that dies sooner has come to nothing, unless it has accepted a client
LONGEST_PAUSE = 30.0  # seconds
BURST = 10
RATE = 2.0  # a second
BUSY_RATE = 20.0  # a second: with 2, one client that sent a deadly request four times a second had two workers down


class Respawn:
    """The pauses of one position; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._in_vain = 0  # workers in a row that came to nothing
        self._idle = Allowance(RATE, clock)
        self._busy = Allowance(BUSY_RATE, clock)

    def after_death(self, lived: float, clients: int) -> float:
        """Seconds until the next attempt, after a worker that was ready for `lived` seconds (0: it could not boot), and
        has accepted `clients`. The worker counts these itself; BUSY_RATE bounds what a wrong count can gain.
        """
        self._in_vain = 0 if clients or lived >= YOUNG else self._in_vain + 1
        return max(pause_after(self._in_vain), (self._busy if clients else self._idle).take())

    def after_departure(self) -> float:
        """Seconds until the next attempt, after a worker that must be replaced, and serves meanwhile."""
        return self._idle.take()


class Allowance:
    """A token bucket: BURST at once, and `rate` a second beyond those. `clock` is in seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._left = float(BURST)
        self._since = clock()

    def take(self) -> float:
        """Take one, and return the seconds until it is allowed."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._since) * self._rate) - 1
        self._since = now
        return max(0.0, -self._left / self._rate)


def pause_after(in_vain: int) -> float:
    """Seconds until the next attempt, after `in_vain` workers in a row that came to nothing."""
    return min(LONGEST_PAUSE, 2.0 ** min(in_vain - 2, 5)) if in_vain > 1 else 0.0
