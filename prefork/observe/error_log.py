"""The error log: where the messages of logger.py go, one line each. Owns the format.

Whatever a client managed to put into a message cannot start a line or steer a terminal: all that is not printable is
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
    """Writes each record to `sink`, one at a time, after a call of `before`. `lock` is renewed in a forked child, where
    nobody would open it.
    """

    def __init__(self) -> None:
        self.sink = Sink("")
        self.before: Callable[[], object] = _nothing
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()  # a signal's handler, or a destructor, may have something to say meanwhile

    def write(self, record: Record) -> None:
        lines = _compose(record).encode("utf-8", "backslashreplace")
        self.before()
        with self.lock:
            self.sink.recover()  # 0.5 us, and no word of ours goes into what an application has opened in its place
            self.sink.write(lines)


def _nothing() -> None:
    pass


_error_log = _ErrorLog()


def configure(sink: Sink, level: str, before: Callable[[], object] = _nothing) -> None:
    """Send the log to `sink`, from `level` on: "debug" ... "critical", KeyError for another. `before` is called before
    each message is written, in whichever thread.

    Call it again to change any of these (the sink of before may then be closed).
    """
    log.level = LEVELS[level]
    with _error_log.lock:
        _error_log.sink, _error_log.before = sink, before
    if _error_log.write not in log.handlers:
        log.handlers.append(_error_log.write)


def reopen(sink: Sink) -> str:
    """Open `sink` anew while no thread writes a message; see Sink.reopen."""
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
    """`2026-11-23 17:30:00.123 +0000 [4711] warning: `, in local time; an application's word has no severity."""
    when = time.localtime(record.created)
    date, zone = time.strftime("%Y-%m-%d %H:%M:%S", when), time.strftime("%z", when)
    thousandths = int(record.created % 1 * 1000)
    return f"{date}.{thousandths:03d} {zone} [{os.getpid()}] {_NAMES[record.level]}: "
