"""The error log: writes the messages of logger.py, one line each. Owns the format.

Text that a client managed to put into a message cannot start a line or steer a terminal: all that is not printable is
escaped. The details of a message follow it in indented lines: a traceback, or other text of several lines, such as the
traceback that a dead worker left behind or the stack of a call that is stuck.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from prefork.logger import APPLICATION, LEVELS, Record, log
from prefork.observe.sink import Sink

_INDENT = "    "
_NAMES = {level: name for name, level in LEVELS.items()} | {APPLICATION: "application"}


class _ErrorLog:
    """Writes each record to `sink`, one at a time, after a call of `before`. A forked child gets a new `lock`, as the
    thread that holds the old one may not exist there.
    """

    def __init__(self) -> None:
        self.sink = Sink("")
        self.before: Callable[[], object] = _nothing
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()  # reentrant, as a signal handler or a destructor may log during a write

    def write(self, record: Record) -> None:
        lines = _compose(record).encode("utf-8", "backslashreplace")
        self.before()
        with self.lock:
            self.sink.recover()  # 0.5 us, so that no line goes into a file that an application has opened in its place
            self.sink.write(lines)


def _nothing() -> None:
    pass


_error_log = _ErrorLog()


def configure(sink: Sink, level: str, before: Callable[[], object] = _nothing) -> None:
    """Send messages of `level` ("debug" ... "critical") and above to `sink`. `before` is called before each message is
    written, in the thread that logs it. Raises KeyError for an unknown level.

    Call it again to change any of these; the former sink may then be closed.
    """
    log.level = LEVELS[level]
    with _error_log.lock:
        _error_log.sink, _error_log.before = sink, before
    if _error_log.write not in log.handlers:
        log.handlers.append(_error_log.write)


def reopen(sink: Sink) -> str:
    """Reopen `sink` while no thread writes a message; see Sink.reopen."""
    with _error_log.lock:
        return sink.reopen()


def escape(text: str) -> str:
    r"""`text` with all that is not printable, line separators and direction marks included, as \xHH or \uHHHH."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _compose(record: Record) -> str:
    lines = [f"{_prefix(record)}{escape(record.text)}"]
    for detail in record.details:
        lines.extend(_INDENT + escape(line.expandtabs()) for line in detail.rstrip("\n").split("\n"))
    return "\n".join(lines) + "\n"


def _prefix(record: Record) -> str:
    """`2026-11-23 17:30:00.123 +0000 [4711] warning: `, in local time. An application's own lines have no severity, and
    say "application" there.
    """
    when = time.localtime(record.created)
    date, zone = time.strftime("%Y-%m-%d %H:%M:%S", when), time.strftime("%z", when)
    thousandths = int(record.created % 1 * 1000)
    return f"{date}.{thousandths:03d} {zone} [{os.getpid()}] {_NAMES[record.level]}: "
