"""The error log: the standard logger "prefork", one line a message. Owns the format and the only handler.

Whatever a client managed to put into a message cannot start a line or steer a terminal: all that is not printable is
escaped. A traceback follows its message in indented lines. `extra={"report": text}` adds other text of several lines in
the same way, such as the traceback that a dead worker left behind or the stack of a call that is stuck.
"""

from __future__ import annotations

import logging
import os
import time

from prefork.observe.sink import Sink

_INDENT = "    "
_tracebacks = logging.Formatter()


class _SinkHandler(logging.Handler):
    """Writes each record to `sink`. `logging` locks it around `emit` and renews the lock in a forked child."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = Sink("")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _compose(record)
        except Exception as error:  # arguments that do not fit the message, or a __str__ that raises
            where = f"{record.pathname}:{record.lineno}"
            text = f"{_prefix(record)}cannot format the message of {escape(where)}: {type(error).__name__}\n"
        self.sink.write(text.encode("utf-8", "backslashreplace"))


_handler = _SinkHandler()


def configure(sink: Sink, level: str) -> None:
    """Send the logger "prefork" to `sink`, from `level` on: "debug" ... "critical", KeyError for another.

    Call it again to change either (the sink of before may then be closed), and after importing an application: its
    `dictConfig` may have switched our logger off, as `disable_existing_loggers` is the default; this switches it on.
    """
    logger = logging.getLogger("prefork")
    number = logging.getLevelNamesMapping()[level.upper()]
    _handler.acquire()
    try:
        _handler.sink = sink
    finally:
        _handler.release()
    logger.addHandler(_handler)  # adds it once at most
    logger.setLevel(number)
    logger.propagate = False  # the root logger is the application's
    logger.disabled = False


def escape(text: str) -> str:
    r"""`text` with all that is not printable, line separators and direction marks included, as \xHH or \uHHHH."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _compose(record: logging.LogRecord) -> str:
    lines = [f"{_prefix(record)}{escape(record.getMessage())}"]
    details = (
        _tracebacks.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else "",
        record.stack_info or "",
        getattr(record, "report", ""),
    )
    for detail in filter(None, details):
        lines.extend(_INDENT + escape(line.expandtabs()) for line in detail.rstrip("\n").split("\n"))
    return "\n".join(lines) + "\n"


def _prefix(record: logging.LogRecord) -> str:
    """`2026-11-23 17:30:00.123 +0000 [4711] warning: `, in local time."""
    when = time.localtime(record.created)
    date, zone = time.strftime("%Y-%m-%d %H:%M:%S", when), time.strftime("%z", when)
    return f"{date}.{int(record.msecs):03d} {zone} [{os.getpid()}] {record.levelname.lower()}: "
