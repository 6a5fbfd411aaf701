"""The log of the `websockets` package: its records go to our log. Owns the logger that it gets."""

from __future__ import annotations

import logging

from prefork.logger import log


class _Heard(logging.Handler):
    """Passes the log records of `websockets` on to our log: they say that its parser has failed."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info and record.exc_info[1])


LIBRARY_LOG = logging.Logger("websockets", logging.WARNING)  # unknown to logging.getLogger: see logger.py
LIBRARY_LOG.addHandler(_Heard())
