"""The logs of one configuration: the error log, and the access log."""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress

from prefork.errors import StartError
from prefork.logger import log
from prefork.observe import error_log
from prefork.observe.access_log import AccessLog
from prefork.observe.log_file import Owner
from prefork.observe.sink import Sink
from prefork.settings.schema import Log
from prefork.shared.counters import ACCESS_LOST, ERROR_LOST
from prefork.shared.scoreboard import ACCESS_FAILURE, ERROR_FAILURE


class Logs:
    """Both logs; the master opens their sinks, and its workers inherit them. `access` is None when it is off."""

    def __init__(self, settings: Log, owner: Owner | None = None) -> None:
        """The user `owner`, if this process is another's, must be able to reopen the files. Raises StartError where a
        file cannot be opened.
        """
        self._settings = settings
        self._owner = owner
        self._sinks: list[Sink] = []
        self.access: AccessLog | None = None
        self._errors = self._open(settings.error)
        self._requests = self._open(settings.access)
        if settings.access:
            self.access = AccessLog(settings.format, self._requests)

    def _open(self, target: str) -> Sink:
        try:
            sink = Sink(target, self._owner)
        except OSError as error:
            self.close()
            raise StartError(f"cannot open the log file {target}: {error.strerror}") from None
        self._sinks.append(sink)
        return sink

    def apply(self) -> None:
        """Make these the logs of this process."""
        error_log.configure(self._errors, self._settings.level, self._keep_order)

    def _keep_order(self) -> None:
        """Called before a message is written: where both logs are one file, write the waiting lines of the access log
        first, so that the file is in the order of time.
        """
        if self.access is not None and self._requests.leads_where(self._errors):
            self.access.flush()

    def catch_crashes(self) -> None:
        """From now on this process writes the stacks of its threads to the error log when it crashes, and when it gets
        SIGUSR2, even where the interpreter itself is stuck (faulthandler).
        """
        faulthandler.enable(self._errors, all_threads=True)
        faulthandler.register(signal.SIGUSR2, self._errors, all_threads=True)

    def count_in(self, board: memoryview) -> None:
        """From now on, count the log lines that this process loses in this slot of the scoreboard."""
        self._errors.count_in(board, ERROR_LOST, ERROR_FAILURE)
        self._requests.count_in(board, ACCESS_LOST, ACCESS_FAILURE)

    @property
    def error_place(self) -> str:
        """The name of the error log in a sentence, with its target: "error log on stderr", say."""
        return f"error log {_place(self._settings.error)}"

    @property
    def access_place(self) -> str:
        return f"access log {_place(self._settings.access)}"

    def say_elsewhere(self, line: str) -> None:
        """Write a line to standard error, unless that is the error log or is closed, or the error log is off."""
        with suppress(OSError):
            if not os.path.samestat(os.fstat(2), os.fstat(self._errors.fileno())):
                stderr = Sink("-")
                stderr.write(f"{line}\n".encode("utf-8", "backslashreplace"))
                stderr.close()

    def reopen(self) -> list[str]:
        """Reopen the files, after they have been moved away. Returns, and logs, a sentence for each old file that must
        stay in use, with the reason.
        """
        told = "cannot reopen a log, so the old file stays"
        reasons = error_log.reopen(self._errors), self.access.reopen() if self.access is not None else ""
        problems = [f"{told}: {reason}" for reason in reasons if reason]
        for problem in problems:
            log.error("%s", problem)
        return problems

    def close(self) -> None:
        if self.access is not None:
            self.access.stop()
        for sink in self._sinks:
            sink.close()


def _place(target: str) -> str:
    return "on stderr" if target == "-" else target
