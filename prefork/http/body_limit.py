"""How large a request body may be, and what the operator is told of those that are larger."""

from __future__ import annotations

from time import monotonic

from prefork.errors import BodyTooLarge
from prefork.http.message import RequestLine
from prefork.logger import log
from prefork.runtime.throttle import Throttle

INTERVAL = 60.0  # seconds between two lines of the log
TARGET_LENGTH = 200  # characters of a target in one


class BodyLimit:
    """At most `most` bytes (0: any), as `key` of the configuration has it. One for all requests that it applies to."""

    def __init__(self, most: int, key: str) -> None:
        self.most = most
        self._key = key
        self._notice = Throttle(INTERVAL)

    def refuse(self, line: RequestLine, size: int) -> BodyTooLarge:
        """What to raise for a request whose body has `size` bytes, or more; the log gets to know, at times."""
        if count := self._notice.happened(monotonic()):
            more = f"; {count - 1} more since the last such line" if count > 1 else ""
            target = line.target[:TARGET_LENGTH]
            log.warning(
                "%s %s: 413, a body of %d bytes, but %s is %d%s", line.method, target, size, self._key, self.most, more
            )
        return BodyTooLarge(f"a body of {size} bytes, beyond {self._key} ({self.most} bytes)")
