"""The server's own log. Owns what a message is; error_log.py owns where it goes and how it looks.

It is used like a logger of the standard library, but is none: those are the application's. An application's
`dictConfig` switches off every logger that it does not name, at import, at startup or in the first request.
`logging.disable`, `setLoggerClass`, `addLevelName`, record factories, and all that intercepts the root logger, reach
every logger of the standard library. None of that reaches this one.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50
APPLICATION = 60  # text that an application writes to wsgi.errors: its severity is unknown, so it is told at any level
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}


@dataclass(frozen=True, slots=True)
class Record:
    """One message. `details` are the texts of several lines that follow it: tracebacks, stacks, reports."""

    level: int
    text: str
    details: tuple[str, ...]
    error: BaseException | None
    created: float  # Unix time in seconds


class Logger:
    """Gives each message of `level` and above to every one of `handlers`, in the thread that logs it; without handlers,
    it prints the message on stderr.

    A message is formatted by `%`. `exc_info` is an exception whose traceback will follow, or True for the one that is
    being handled. `extra={"report": text}` is any other text to follow; with `stack_info`, the caller's stack follows.
    """

    def __init__(self) -> None:
        self.level = WARNING
        self.handlers: list[Callable[[Record], None]] = []

    def debug(self, message: str, *args: object, exc_info: BaseException | bool | None = None) -> None:
        if self.level <= DEBUG:
            self.log(DEBUG, message, *args, exc_info=exc_info)

    def info(self, message: str, *args: object, exc_info: BaseException | bool | None = None) -> None:
        self.log(INFO, message, *args, exc_info=exc_info)

    def warning(
        self,
        message: str,
        *args: object,
        exc_info: BaseException | bool | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.log(WARNING, message, *args, exc_info=exc_info, extra=extra)

    def error(
        self,
        message: str,
        *args: object,
        exc_info: BaseException | bool | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.log(ERROR, message, *args, exc_info=exc_info, extra=extra)

    def critical(
        self,
        message: str,
        *args: object,
        exc_info: BaseException | bool | None = None,
        extra: Mapping[str, str] | None = None,
        stack_info: bool = False,
    ) -> None:
        self.log(CRITICAL, message, *args, exc_info=exc_info, extra=extra, stack_info=stack_info)

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: BaseException | bool | None = None,
        extra: Mapping[str, str] | None = None,
        stack_info: bool = False,
    ) -> None:
        if level < self.level:
            return
        error = sys.exc_info()[1] if exc_info is True else exc_info or None
        details = (
            _traceback(error) if error is not None else "",
            "Stack:\n" + "".join(traceback.format_stack(sys._getframe(1))) if stack_info else "",
            extra["report"] if extra is not None else "",
        )
        record = Record(level, _format(message, args), tuple(filter(None, details)), error, time.time())
        for handle in tuple(self.handlers) or (_last_resort,):
            handle(record)


def _format(message: str, args: tuple[object, ...]) -> str:
    try:
        return message % args if args else message
    except Exception as error:  # arguments that do not fit the message, or a __str__ that raises
        return f"cannot format the message {message!r}: {type(error).__name__}"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as failure:  # raised by the exception's own code
        return f"(no traceback of {type(error).__name__}: {type(failure).__name__})"


def _last_resort(record: Record) -> None:
    """Print the record on stderr, as long as no handler is set."""
    print(record.text, *record.details, sep="\n", file=sys.stderr)


log = Logger()
