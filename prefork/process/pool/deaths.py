"""Deaths: the workers of a generation that died, or could not boot to replace one. Owns their count and log lines.

Workers that cannot boot mostly fail alike, at every attempt. So the same traceback is logged once, until a worker has
booted again.
"""

from __future__ import annotations

import time

from prefork.errors import BootError
from prefork.logger import log


class Deaths:
    """How many deaths there have been, and the last one."""

    def __init__(self) -> None:
        self.count = 0
        self.last: tuple[float, str] | None = None  # the time of the last death (Unix time), and its reason
        self._report: str | None = None  # the traceback logged last, if no worker has booted since

    def note(self, reason: str) -> None:
        """Count the death of a worker that nobody had asked to leave."""
        self.count += 1
        self.last = time.time(), reason

    def could_not_boot(self, failure: BootError) -> None:
        """Count and log a worker that could not boot to replace another."""
        self.note(str(failure))
        if failure.report and failure.report == self._report:
            log.error("%s (with the same traceback as before)", failure)
        else:
            log.error("%s", failure, extra={"report": failure.report})
        self._report = failure.report

    def booted(self, pid: int) -> None:
        """A worker is ready: log it, at level INFO where others could not boot before it."""
        if self._report is None:
            log.debug("worker %d is ready", pid)
        else:
            log.info("worker %d serves: workers boot again", pid)
        self._report = None
