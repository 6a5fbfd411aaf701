"""Saturation: tells the operator that calls are turned away as all threads of the worker are busy, and with what."""

from __future__ import annotations

from prefork.http.message import Request
from prefork.logger import log
from prefork.runtime.threads import ThreadPool
from prefork.runtime.throttle import ThrottledNotice

INTERVAL = 10.0  # seconds between two lines, at the least
LONGEST_LOGGED = 500  # characters of a request line that the log shows


class Saturation:
    """The saturation of the threads of `pool`. The first call that is turned away is logged at once; those that follow
    are counted, and logged by their number.
    """

    def __init__(self, pool: ThreadPool, interval: float = INTERVAL) -> None:
        self._pool = pool
        self._notice = ThrottledNotice(pool.loop, interval, self._tell)
        # as it was when a call was turned away last
        self._busy = 0  # threads
        self._slowest: Request | None = None  # of the calls under way, the one that began first
        self._lasted = 0.0  # seconds since that one began
        self._timeout = 0.0

    def turned_away(self, timeout: float) -> None:
        """Note that a call is not made, as it has waited for a thread for `timeout` seconds (queue_timeout)."""
        calls = list(self._pool.calls.under_way.values())
        self._busy = len(calls)
        self._timeout = timeout
        slowest = min(calls, key=lambda call: call.began, default=None)
        if slowest is not None:
            self._slowest = slowest.what
            self._lasted = self._pool.loop.now - slowest.began
        self._notice.happened()

    def _tell(self, count: int) -> None:
        calls = "1 call" if count == 1 else f"{count} calls"
        told = f"{self._busy} of {self._pool.threads} threads busy, {calls} turned away with 503"
        told += f" after workers.queue_timeout ({self._timeout:g} s)"
        if self._slowest is not None:
            line = f"{self._slowest.method} {self._slowest.target}"[:LONGEST_LOGGED]
            told += f"; the slowest one under way, for {self._lasted:.1f} s: {line}"
        log.warning("%s", told)
