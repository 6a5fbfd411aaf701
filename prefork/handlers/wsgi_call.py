"""One call of a WSGI application: what it says by start_response, and what becomes of what it returns (PEP 3333).

All of it is done in one thread, and nothing in here waits for the loop.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from prefork.errors import ApplicationError
from prefork.handlers.outbox import Outbox
from prefork.handlers.wsgi_files import FileWrapper
from prefork.http.grammar import DIGITS, REASONS
from prefork.http.message import Body, Fields, Response

log = logging.getLogger("prefork")


class Call:
    """One call of the application: `start_response` is what it is given, `conclude` is given what it returns."""

    # defaults of the class instead of an __init__: a call costs 60 ns to make, not 170
    status = 0
    reason = ""
    headers: Fields = ()
    written: list[bytes] | None = None  # what is to go out first: what the application gave to write(), say
    sent = False
    _result: Iterable[bytes] = ()
    _iterator: Iterator[bytes] = iter(())
    _input: IO[bytes]

    def start_response(self, status: str, headers: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". With `exc_info`, re-raises it once the head is out."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the traceback's frames would keep themselves alive
            self.written = None
        elif self.status:
            raise ApplicationError("start_response was called twice, without exc_info")
        self.status, self.reason = _STATUSES.get(status) or _parse_status(status)
        self.headers = headers
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's imperative way out. Buffered: what is written leaves with what is yielded next."""
        if to_bytes(data):
            if self.written is None:
                self.written = []
            self.written.append(data)

    def response(self, body: Body) -> Response:
        """Raises ApplicationError where start_response has not been called."""
        self._check_status()
        self.sent = True
        return Response(self.status, self.headers, body, self.reason)

    def _check_status(self) -> None:
        if not self.status:
            raise ApplicationError("the application did not call start_response")

    def conclude(self, result: Iterable[bytes], input: IO[bytes]) -> Response | None:
        """The response to any iterable: a file to send, or a body that is complete by now; None: `produce` is due.

        Whichever comes to the end closes `input`, the request body.
        """
        self._result = result
        self._input = input
        try:
            segment = None
            if isinstance(result, FileWrapper) and self.status and not self.written:
                segment = result.segment(self._length())
            if segment is None:
                self._iterator = iter(result)
                if self._begin():
                    self._check_status()
                    return None
            response = self.response(segment or self._taken())
        except BaseException:
            self._close()
            raise
        self._close()
        return response

    def _begin(self) -> bool:
        """Take pieces until the first that is not empty, before which PEP 3333 has no head sent. False: there is none.

        Where that one is all that Content-Length announces, look for the end too: then the whole goes out at once.
        """
        while not self.written or self._length() == sum(map(len, self.written)):
            piece = next(self._iterator, _END)
            if piece is _END:
                return False
            self.write(piece)
        return True

    def outcome(self, outbox: Outbox) -> Response:
        """The response to what `produce` puts: in one piece where all of it is there, and as long as announced."""
        if outbox.whole and self._length() in (None, outbox.size):
            return self.response(outbox.take())
        return self.response(outbox)

    def produce(self, outbox: Outbox) -> None:
        """Put what has been taken so far, and the rest, until the end or as long as somebody wants it."""
        self.sent = True  # for start_response: there is no other head any more
        error: BaseException | None = None
        try:
            while outbox.put(self._taken()):
                piece = next(self._iterator, _END)
                if piece is _END:
                    outbox.put(self._taken())
                    break
                self.write(piece)
        except BaseException as failure:
            error = failure
        outbox.end(error)
        self._close()

    def _taken(self) -> bytes:
        written, self.written = self.written, None
        return b"".join(written or ())

    def _length(self) -> int | None:
        """The Content-Length that the application has announced, if it is one."""
        for name, value in self.headers:
            if str(name).lower() == "content-length" and DIGITS.fullmatch(str(value)):
                return int(value)
        return None

    def _close(self) -> None:
        """Call the iterable's close(), whatever became of the response; where that fails, it is only logged."""
        self._input.close()
        close = getattr(self._result, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:  # whatever it is, it is not to end the thread
                log.error("close() of a response failed: %r", error, exc_info=error)


_END: Any = object()

_STATUS = re.compile(r"[2-5][0-9]{2}(?: |\Z)")
_STATUSES = {f"{code} {reason}": (code, reason) for code, reason in REASONS.items()}


def _parse_status(status: str) -> tuple[int, str]:
    """ "404 Nothing here" -> its code and reason. Raises ApplicationError."""
    if not isinstance(status, str) or not _STATUS.match(status):
        raise ApplicationError(f"start_response got an invalid status: {status!r}")
    return int(status[:3]), status[4:]


def to_bytes(piece: Any) -> bytes:
    if type(piece) is not bytes:
        raise ApplicationError(f"the application yielded {type(piece).__name__}, not bytes")
    return piece
