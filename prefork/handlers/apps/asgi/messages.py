"""Conversions: values in an application's ASGI messages are checked, and made into the server's own types.

It also classifies the exceptions that an application raises. Owns the cache of header fields.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from functools import partial
from typing import Any

from prefork.bounded import remember
from prefork.errors import ApplicationError, ClientGone
from prefork.http.message import Fields, FileSegment

ENTRIES = 512  # in the cache of header fields, at most
ENTRY_BYTES = 4096  # headers larger than this are converted each time

FIELDS: dict[tuple[Any, ...], Fields] = {}  # the cache: results of to_fields, by its argument


class News(asyncio.Event):
    """An event on which an application waits until the connection's side has done something, and has `set` it."""

    async def next(self) -> None:
        """Wait for the next `set`; an earlier one does not count."""
        self.clear()
        await self.wait()


def to_fields(headers: Iterable[Any]) -> Fields:
    """ASGI's headers as the fields of a Response. Raises RuntimeError where they are not pairs of bytes."""
    try:
        pairs = tuple([(name, value) for name, value in headers])
    except (TypeError, ValueError):
        raise RuntimeError(f"the headers of a response are no pairs: {headers!r}") from None
    for pair in pairs:
        if type(pair[0]) is not bytes or type(pair[1]) is not bytes:
            raise RuntimeError(f"a header field of a response is not a pair of bytes: {pair!r}")
    fields = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs])
    if sum([len(name) + len(value) for name, value in pairs]) <= ENTRY_BYTES:
        remember(FIELDS, pairs, fields, ENTRIES)
    return fields


def to_bytes(body: Any) -> bytes:
    """`body` as bytes. Raises RuntimeError where it is not bytes, bytearray or memoryview."""
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise RuntimeError(f"a response's body is of type {type(body).__name__}, not bytes")
    return bytes(body)


def to_segment(path: Any) -> FileSegment:
    """The whole file at `path`. Raises RuntimeError, since an OSError tells an application that its client is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # so that a FIFO does not hold up the loop
    except (OSError, TypeError, ValueError) as error:
        raise RuntimeError(f"http.response.pathsend: {error}") from error
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise RuntimeError(f"http.response.pathsend: {path!r} is not a regular file")
    return FileSegment(file, 0, status.st_size, partial(os.close, file))


def is_hangup(error: BaseException | None) -> bool:
    """Whether the exception was caused by ClientGone, or by the cancellation that follows a hang-up. In a group, that
    must be true of each exception.
    """
    while error is not None and not isinstance(error, (ClientGone, asyncio.CancelledError)):
        if isinstance(error, BaseExceptionGroup):
            return all(is_hangup(each) for each in error.exceptions)
        error = error.__cause__ or error.__context__
    return error is not None


def ended_by(error: BaseException) -> Exception:
    """The exception that the connection must raise for `error`: an ApplicationError in the place of a BaseException
    such as SystemExit or CancelledError, which must end one request alone.
    """
    if isinstance(error, Exception):
        return error
    wrapped = ApplicationError(f"the application raised {error!r}")
    wrapped.__cause__ = error
    return wrapped
