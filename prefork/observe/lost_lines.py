"""Lost lines: tells the operator of log lines that could not be written, as when the disk is full. Owns which of them
were reported.

The master and each worker count their own lost lines in the scoreboard, so that none are forgotten when a process ends.
The master checks it now and then, and reports in the error log how many lines of each log have been lost since the last
report. Where that report is lost as well, it goes to standard error, if that leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import NoReturn

from prefork.logger import log
from prefork.observe.logs import Logs
from prefork.observe.sink import reason
from prefork.runtime.loop import Loop
from prefork.shared.counters import ACCESS_LOST, ERROR_LOST
from prefork.shared.scoreboard import ACCESS_FAILURE, ERROR_FAILURE, Scoreboard

LOOK_INTERVAL = 3.0  # seconds between two checks
PAUSE = 60.0  # seconds between two reports


class LostLines:
    """Reports the lines that all processes of `scoreboard` lose; for the master. `logs` returns the master's own."""

    def __init__(
        self, scoreboard: Scoreboard, logs: Callable[[], Logs], look: float = LOOK_INTERVAL, pause: float = PAUSE
    ) -> None:
        self._scoreboard = scoreboard
        self._logs = logs
        self._look = look
        self._pause = pause
        self._told = {ACCESS_LOST: 0, ERROR_LOST: 0}
        self._before: dict[int, list[int]] = {ACCESS_LOST: [], ERROR_LOST: []}  # counts by slot, at the last report

    @property
    def _own(self) -> memoryview:
        """The master's page. It is not kept here, as a forked child releases that memory."""
        return self._scoreboard.slot(0)

    async def watch(self, loop: Loop) -> NoReturn:
        """Check and report, for ever."""
        while True:
            await loop.sleep(self._look)
            if self.tell():
                await loop.sleep(self._pause)

    def tell(self) -> bool:
        """Report the lines that have been lost since the last report; False where there are none."""
        totals = self._scoreboard.totals()
        losses = [
            f"{number} of the {place} ({self._reasons(lost, failure)})"
            for lost, failure, place in (
                (ACCESS_LOST, ACCESS_FAILURE, self._logs().access_place),
                (ERROR_LOST, ERROR_FAILURE, self._logs().error_place),
            )
            if (number := totals[lost] - self._told[lost])
        ]
        if not losses:
            return False
        self._told = {word: totals[word] for word in self._told}
        self._before = {word: self._scoreboard.column(word) for word in self._told}
        self._own[ACCESS_FAILURE] = self._own[ERROR_FAILURE] = 0
        sentence = f"log lines are lost: {', '.join(losses)}"
        before = self._own[ERROR_LOST]
        log.error("%s", sentence)
        if unheard := self._own[ERROR_LOST] - before:
            self._told[ERROR_LOST] += unheard  # the loss of this report itself need not be reported
            self._logs().say_elsewhere(f"prefork: {sentence}")
        return True

    def _reasons(self, lost: int, failure: int) -> str:
        """The reasons, in words, of the processes that have lost lines since the last report, and of those that are
        gone.
        """
        column, counts = self._scoreboard.column(failure), self._scoreboard.column(lost)
        changed = zip_longest(column, counts, self._before[lost], fillvalue=0)
        codes = {self._own[failure], *(code for code, now, before in changed if now != before)} - {0}
        return ", ".join(sorted(map(reason, codes)))
