"""One call of a WSGI application: what it says by start_response, and what becomes of what it returns (PEP 3333).

All of it is done in one thread, and nothing in here waits for the loop but what puts pieces into a full buffer. Where
the application comes back in a process that it has forked, that process ends (forks.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from time import monotonic
from typing import IO, Any, Protocol

from prefork.errors import ApplicationError, ClientGone, Disconnected, ForkedError
from prefork.handlers.apps.response_buffer import ResponseBuffer
from prefork.handlers.apps.wsgi.file_wrapper import FileWrapper
from prefork.http.exchange import failed
from prefork.http.grammar import DIGITS, REASONS
from prefork.http.message import Body, Fields, Request, Response
from prefork.logger import log
from prefork.runtime import forks

LOOK = 1.0  # seconds between two looks whether the client of an application that gives nothing is still there
PATIENCE = 30.0  # seconds for which an application may go on with a body that nobody is to see (HEAD, 304), as by ASGI


class Opener(Protocol):
    """How the response of a call begins before the call has returned."""

    def open(self, call: Call) -> ResponseBuffer:
        """Have `call.response` made of what is returned, and sent."""


class Call:
    """One call of the application: `start_response` is what it is given, `conclude` is given what it returns.

    `request`, its body `input`, the `thread` (ident) that makes the call, and `opener` are to be set before. Whichever
    of `conclude`, `finish` and `produce` comes to the end calls `close`; where the application, `conclude` or `finish`
    raises, the caller calls `fail`. `buffer` is where the body goes, once the head does not wait for the whole of it.
    """

    # defaults of the class instead of an __init__: a call costs 60 ns to make, not 170
    status = 0
    reason = ""
    headers: Fields = ()
    sent = False  # the head is on its way: it is too late for another one
    thread = 0  # once the call is over
    buffer: ResponseBuffer | None = None
    request: Request
    input: IO[bytes]
    opener: Opener
    _pieces: list[bytes] | None = None  # what is to go out first
    _result: Iterable[bytes] = ()
    _iterator: Iterator[bytes] = iter(())
    _until = 0.0  # when PATIENCE is over (monotonic seconds), where nobody is to see what is written
    _next_look = 0.0

    def start_response(self, status: str, headers: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". With `exc_info`, re-raises it once the head is out."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or the traceback's frames would keep themselves alive
            self._pieces = None
        elif self.status:
            raise ApplicationError("start_response was called twice, without exc_info")
        self.status, self.reason = _STATUSES.get(status) or _parse_status(status)
        self.headers = headers if type(headers) is list else tuple(headers)  # an iterator is looked at more than once
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's imperative way out: what is not empty leaves now, the head before it, and waits as what is yielded
        does where the client reads slowly.

        Raises ClientGone, an OSError, where nobody is there to get it; ApplicationError where it may not be called;
        ForkedError.
        """
        if forks.forked:
            raise ForkedError
        piece = to_bytes(data)
        if not piece:
            return
        buffer = self.buffer
        if buffer is None or not self.thread:
            buffer = self._open()
        if self._until:
            if monotonic() > self._until:
                raise ClientGone("no client will see this body, and it does not end")
        elif not buffer.put(piece):
            raise ClientGone("the client is gone")

    def _open(self) -> ResponseBuffer:
        """Let the response begin with the pieces that are there."""
        if not self.thread or self.sent:
            raise ApplicationError("write() was called after the response was over")
        if get_ident() != self.thread:
            raise ApplicationError("write() was called first in another thread than the application")
        self.sent = True
        self.headers = tuple(self.headers)  # as they are now
        if self._is_unseen():
            self._until = monotonic() + PATIENCE
        buffer = self.buffer = self.opener.open(self)
        if not self._until:
            buffer.put(self._taken())
        return buffer

    def _is_unseen(self) -> bool:
        """The response is to have no body, whatever there is."""
        return self.request.method == "HEAD" or self.status in (204, 304)

    def response(self, body: Body) -> Response:
        """Raises ApplicationError where start_response has not been called."""
        self._check_status()
        self.sent = True
        return Response(self.status, self.headers, body, self.reason)

    def _check_status(self) -> None:
        if not self.status:
            raise ApplicationError("the application did not call start_response")

    def conclude(self, result: Iterable[bytes]) -> Response | None:
        """The response to any iterable: a file to send, or a body that is complete by now.

        None: `produce` is due, or has been done where the application has written. Where `thread` is still set, the
        application may have something left to do, for which nobody has to wait: `finish` is due.
        """
        self._result = result
        body: Body | None = None
        if self.buffer is not None:
            self._iterator = iter(result)
        elif isinstance(result, (str, bytes)) and result:
            raise ApplicationError(
                f"the application yielded {type(result[0]).__name__}, not bytes: "
                f"it returned {type(result).__name__} in the place of a list of bytes"
            )
        elif isinstance(result, (list, tuple)):
            body = b"".join(map(to_bytes, result))
        elif isinstance(result, FileWrapper) and self.status:
            body = result.segment(self._length())
        if body is None and self.buffer is None:
            self._iterator = iter(result)
            body = self._begin(_has_one(result))
        if self.buffer is not None:  # it writes, or has begun to while it was asked for pieces
            self.produce(self.buffer)
            return None
        if body is None:
            self._check_status()
            return None
        response = self.response(body)
        if isinstance(result, (list, tuple, FileWrapper)):  # it has no end to come to that takes its time
            self.close()
        return response

    def _begin(self, single: bool) -> bytes | None:
        """Take pieces until the first that is not empty, before which PEP 3333 has no head sent; the body, if that was
        all. Raises Disconnected where the client has left meanwhile.

        Where it is to be the only one, look for the end too: then the whole goes out at once. It does where it is all
        that Content-Length announces, and `finish` looks for the end.
        """
        while not self._pieces or (single and len(self._pieces) == 1):
            piece = next(self._iterator, _END)
            if forks.forked:
                forks.leave()
            if piece is _END:
                self._iterator = iter(())
                return self._taken()
            self._add(piece)
            if self.buffer is not None:
                return None
        if self.status and self._length() == sum(map(len, self._pieces)):
            return self._taken()
        return None

    def excess(self) -> ApplicationError:
        """What `finish` has met, where it is too late to send any of it."""
        return ApplicationError(f"the body is longer than its Content-Length of {self._length()}")

    def finish(self, body: Body = b"") -> bool:
        """Behind a response that is whole, `body`: let the application come to its end. Raises what it raises. False
        where it gives more than it has announced; then `produce` is due.
        """
        for piece in self._iterator:
            if forks.forked:
                forks.leave()
            if to_bytes(piece):
                assert isinstance(body, bytes)
                self._pieces = [body, piece]
                return False
        if forks.forked:
            forks.leave()
        self.close()
        return True

    def finish_behind(self) -> None:
        """The same where the response may be on its way: what goes wrong is only logged."""
        try:
            if not self.finish():
                raise self.excess()
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            self.fail(error)
            failed(self.request, error)

    def _add(self, piece: Any) -> None:
        """Take a piece that the application has yielded. Raises Disconnected as `_begin` does."""
        piece = to_bytes(piece)
        if piece:
            if self._pieces is None:
                self._pieces = []
            self._pieces.append(piece)
        elif (now := monotonic()) >= self._next_look:
            if self._next_look and self.request.body.client_left:
                raise Disconnected("the client left while the application gave nothing")
            self._next_look = now + LOOK

    def outcome(self, buffer: ResponseBuffer) -> Response:
        """The response to what `produce` puts: in one piece where all of it is there."""
        if buffer.whole:
            return self.response(buffer.take())
        return self.response(buffer)

    def produce(self, buffer: ResponseBuffer) -> None:
        """Put what has been taken so far, and the rest, until the end or as long as somebody wants it."""
        self.sent = True  # for start_response: there is no other head any more
        self.buffer = buffer
        if self._is_unseen():
            buffer.abandoned = True
        error: BaseException | None = None
        try:
            while buffer.put(self._taken()):
                piece = next(self._iterator, _END)
                if forks.forked:
                    forks.leave()
                if piece is _END:
                    buffer.put(self._taken())
                    break
                self._add(piece)
        except BaseException as failure:
            if forks.forked:
                forks.leave(failure)
            error = contained(failure)
        self.thread = 0  # before anybody has seen the end: what is written now comes too late
        buffer.end(error)
        self.close()

    def fail(self, error: BaseException) -> None:
        """The application has raised this: end what it has begun to write, and close."""
        self.thread = 0
        if self.buffer is not None:
            self.buffer.end(contained(error))
        self.close()

    def _taken(self) -> bytes:
        """What has been taken, and nothing is left of it."""
        pieces, self._pieces = self._pieces, None
        return b"".join(pieces) if pieces else b""

    def _length(self) -> int | None:
        """The Content-Length that the application has announced, if it is one."""
        for name, value in self.headers:
            if str(name).lower() == "content-length" and DIGITS.fullmatch(str(value)):
                return int(value)
        return None

    def close(self) -> None:
        """Close `input`, and call the iterable's close(), whatever became of the response.

        Where one of these fails, it is only logged.
        """
        self.thread = 0
        for name, what in (("wsgi.input", self.input), ("a response", self._result)):
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
    status = str.__str__(status)  # of a subclass no more than its text
    return int(status[:3]), status[4:]


def to_bytes(piece: Any) -> bytes:
    """`piece`; of a subclass of bytes no more than its bytes. Raises ApplicationError."""
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, bytes):
        raise ApplicationError(f"the application yielded {type(piece).__name__}, not bytes")
    return bytes(memoryview(piece))


def _has_one(result: Any) -> bool:
    """It has a length, which is 1: its piece is the whole (PEP 3333, "Handling the Content-Length Header")."""
    try:
        return len(result) == 1
    except Exception:  # none, or one that it cannot tell: a class may have to define __len__, and raise there
        return False


def contained(error: BaseException) -> BaseException:
    """What an application has raised, or ApplicationError in the place of what would end a coroutine or the process."""
    if not isinstance(error, (GeneratorExit, KeyboardInterrupt, StopIteration, StopAsyncIteration)):
        return error
    failure = ApplicationError(f"the application raised {error!r}")
    failure.__cause__ = error
    return failure
