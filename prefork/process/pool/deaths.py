"""Deaths: what is known and told of the workers of a generation that died, or could not boot in the place of one.

Workers that cannot boot mostly fail alike, each at every attempt: a traceback is told once, until one has booted again.
"""

from __future__ import annotations

import time

from prefork.errors import BootError
from prefork.logger import log


class Deaths:
    """How many there have been, and the last one."""

    def __init__(self) -> None:
        self.count = 0
        self.last: tuple[float, str] | None = None  # when (Unix time), and of what
        self._report: str | None = None  # the traceback told last, while no worker has booted since

    def note(self, reason: str) -> None:
        """A worker has died that nobody had asked to leave."""
        self.count += 1
        self.last = time.time(), reason

    def could_not_boot(self, failure: BootError) -> None:
        """One that is in the place of another could not boot: note it, and log it."""
        self.note(str(failure))
        if failure.report and failure.report == self._report:
            log.error("%s (with the same traceback as before)", failure)
        else:
            log.error("%s", failure, extra={"report": failure.report})
        self._report = failure.report

    def booted(self, pid: int) -> None:
        """A worker is ready: said where others could not boot before it."""
        if self._report is None:
            log.debug("worker %d is ready", pid)
        else:
            log.info("worker %d serves: workers boot again", pid)
        self._report = None
