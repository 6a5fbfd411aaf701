"""The limit on request bodies. Owns how large a body may be, and the operator's warnings of bodies that are larger."""

from __future__ import annotations

from time import monotonic

from prefork.errors import BodyTooLarge
from prefork.http.message import RequestLine
from prefork.logger import log
from prefork.runtime.throttle import Throttle

INTERVAL = 60.0  # seconds between two warnings
TARGET_LENGTH = 200  # characters of a request's target that a warning shows


class BodyLimit:
    """A body may have `most` bytes at most (0: any number), as the configuration's `key` says.

    All requests that the limit applies to share one object.
    """

    def __init__(self, most: int, key: str) -> None:
        self.most = most
        self._key = key
        self._notice = Throttle(INTERVAL)

    def refuse(self, line: RequestLine, size: int) -> BodyTooLarge:
        """The error to raise for a request whose body has `size` bytes or more.

        It is logged as well, at most once in INTERVAL seconds.
        """
        if count := self._notice.happened(monotonic()):
            more = f"; {count - 1} more since the last such line" if count > 1 else ""
            target = line.target[:TARGET_LENGTH]
            log.warning(
                "%s %s: 413, a body of %d bytes, but %s is %d%s", line.method, target, size, self._key, self.most, more
            )
        return BodyTooLarge(f"a body of {size} bytes, beyond {self._key} ({self.most} bytes)")
