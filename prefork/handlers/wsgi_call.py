"""One call of a WSGI application: what it says by start_response, and what becomes of what it returns (PEP 3333).

All of it is done in one thread, and nothing in here waits for the loop. Where the application comes back in a process
that it has forked, that process ends (forks.py).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from prefork.errors import ApplicationError, ForkedError
from prefork.handlers.outbox import MEMORY, Outbox
from prefork.handlers.wsgi_files import FileWrapper
from prefork.http.grammar import DIGITS, REASONS
from prefork.http.message import Body, Fields, Response
from prefork.kernel import forks
from prefork.logger import log


class Call:
    """One call of the application: `start_response` is what it is given, `conclude` is given what it returns.

    `input` is the request body. Whichever of `conclude` and `produce` comes to the end calls `close`; where the
    application or `conclude` raises, the caller does.
    """

    # defaults of the class instead of an __init__: a call costs 60 ns to make, not 170
    status = 0
    reason = ""
    headers: Fields = ()
    written: list[bytes] | None = None  # what is to go out first: what the application gave to write(), say
    sent = False
    input: IO[bytes]
    _size = 0  # of what write() has put into `written`
    _spool: IO[bytes] | None = None  # what was written before that, and had no room in memory
    _result: Iterable[bytes] = ()
    _iterator: Iterator[bytes] = iter(())

    def start_response(self, status: str, headers: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". With `exc_info`, re-raises it once the head is out."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the traceback's frames would keep themselves alive
            self._discard()
        elif self.status:
            raise ApplicationError("start_response was called twice, without exc_info")
        self.status, self.reason = _STATUSES.get(status) or _parse_status(status)
        self.headers = headers if type(headers) is list else tuple(headers)  # an iterator is looked at more than once
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's imperative way out. Buffered: what is written leaves with what is yielded next.

        No more than MEMORY of it, or its last piece, is in memory, the rest on disk. Raises OSError (disk full), and
        ForkedError.
        """
        if forks.forked:
            raise ForkedError
        piece = to_bytes(data)
        if not piece:
            return
        self._size += len(piece)
        if self._size > MEMORY and self.written:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115 (closed once it has been put, or by `close`)
            self._spool.writelines(self.written)
            self.written, self._size = [], len(piece)
        self._add(piece)

    def _add(self, piece: bytes) -> None:
        if piece:
            if self.written is None:
                self.written = []
            self.written.append(piece)

    def response(self, body: Body) -> Response:
        """Raises ApplicationError where start_response has not been called."""
        self._check_status()
        self.sent = True
        return Response(self.status, self.headers, body, self.reason)

    def _check_status(self) -> None:
        if not self.status:
            raise ApplicationError("the application did not call start_response")

    def conclude(self, result: Iterable[bytes]) -> Response | None:
        """The response to any iterable: a file to send, or a body that is complete by now; None: `produce` is due."""
        self._result = result
        segment = None
        if isinstance(result, FileWrapper) and self.status and not self.written:
            segment = result.segment(self._length())
        if segment is None:
            self._iterator = iter(result)
            if self._begin():
                self._check_status()
                return None
        response = self.response(segment or self._taken())
        self.close()
        return response

    def _begin(self) -> bool:
        """Take pieces until the first that is not empty, before which PEP 3333 has no head sent. False: all is there.

        Where that one is all that Content-Length announces, look for the end too: then the whole goes out at once.
        """
        while not self.written or (self._spool is None and self._length() == sum(map(len, self.written))):
            piece = next(self._iterator, _END)
            if forks.forked:
                forks.leave()
            if piece is _END:
                return self._spool is not None
            self._add(to_bytes(piece))
        return True

    def outcome(self, outbox: Outbox) -> Response:
        """The response to what `produce` puts: in one piece where all of it is there."""
        if outbox.whole:
            return self.response(outbox.take())
        return self.response(outbox)

    def produce(self, outbox: Outbox) -> None:
        """Put what has been taken so far, and the rest, until the end or as long as somebody wants it."""
        self.sent = True  # for start_response: there is no other head any more
        error: BaseException | None = None
        try:
            while self._put(outbox):
                piece = next(self._iterator, _END)
                if forks.forked:
                    forks.leave()
                if piece is _END:
                    self._put(outbox)
                    break
                self._add(to_bytes(piece))
        except BaseException as failure:
            if forks.forked:
                forks.leave(failure)
            error = contained(failure)
        outbox.end(error)
        self.close()

    def _put(self, outbox: Outbox) -> bool:
        """Put what has been taken so far. False: nobody wants it."""
        if self._spool is not None:
            self._spool.seek(0)
            while (piece := self._spool.read(MEMORY)) and outbox.put(piece):
                pass
        return outbox.put(self._taken())

    def _taken(self) -> bytes:
        """What is in memory, and nothing is left of it."""
        taken = b"".join(self.written or ())
        self._discard()
        return taken

    def _discard(self) -> None:
        spool, self._spool, self.written, self._size = self._spool, None, None, 0
        if spool is not None:
            spool.close()

    def _length(self) -> int | None:
        """The Content-Length that the application has announced, if it is one."""
        for name, value in self.headers:
            if str(name).lower() == "content-length" and DIGITS.fullmatch(str(value)):
                return int(value)
        return None

    def close(self) -> None:
        """Close `input` and what was written, and call the iterable's close(), whatever became of the response.

        Where one of these fails, it is only logged.
        """
        for name, what in (("wsgi.input", self.input), ("a spool", self._spool), ("a response", self._result)):
            try:
                close = getattr(what, "close", None)
                if close is not None:
                    close()
            except BaseException as error:  # whatever it is, it is not to end the thread
                if forks.forked:
                    forks.leave(error)
                log.error("close() of %s failed: %r", name, error, exc_info=error)
            if forks.forked:
                forks.leave()


_END: Any = object()

_STATUS = re.compile(r"[2-9][0-9]{2}(?: |\Z)")
_STATUSES = {f"{code} {reason}": (code, reason) for code, reason in REASONS.items()}


def _parse_status(status: str) -> tuple[int, str]:
    """ "404 Nothing here" -> its code and reason. Raises ApplicationError."""
    if not isinstance(status, str) or not _STATUS.match(status):
        raise ApplicationError(f"start_response got an invalid status: {status!r}")
    return int(status[:3]), status[4:]


def to_bytes(piece: Any) -> bytes:
    """`piece`; of a subclass of bytes no more than its bytes. Raises ApplicationError."""
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, bytes):
        raise ApplicationError(f"the application yielded {type(piece).__name__}, not bytes")
    return bytes(memoryview(piece))


def contained(error: BaseException) -> BaseException:
    """What an application has raised, or ApplicationError in the place of what would end a coroutine or the process."""
    if not isinstance(error, (GeneratorExit, KeyboardInterrupt, StopIteration, StopAsyncIteration)):
        return error
    failure = ApplicationError(f"the application raised {error!r}")
    failure.__cause__ = error
    return failure
