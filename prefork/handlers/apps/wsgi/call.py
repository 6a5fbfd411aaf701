"""One call of a WSGI application: it takes the head from start_response, and the body from the result (PEP 3333).

One thread makes the call from its beginning to its end; only write() may later be called in other threads too. Nothing
here waits for the loop, except to put a piece into a full buffer. Where the application returns in a process that it
has forked, that process ends (forks.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import get_ident
from time import monotonic
from typing import IO, Any, Protocol

from prefork.errors import ApplicationError, ClientGone, Disconnected, ForkedError
from prefork.handlers.apps.response_buffer import DISK, MEMORY, ResponseBuffer
from prefork.handlers.apps.wsgi.file_wrapper import FileWrapper
from prefork.http.exchange import failed
from prefork.http.grammar import DIGITS, REASONS
from prefork.http.message import Body, Fields, Request, Response
from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.calls import Call as AtWork
from prefork.runtime.threads import ThreadPool

LOOK_INTERVAL = 1.0  # seconds between two checks that the client is there, while the application yields empty pieces
UNSEEN_TIMEOUT = 30.0  # seconds for which an application may write a body that is not sent (HEAD, 304); as in asgi/http
HALF_CLOSED = 0.1  # seconds of waiting for a thread, after which a client that has shut down its side counts as gone


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a call and of its response. `look_interval` seconds pass between two checks that the client is
    there, and `unseen_timeout` seconds until an application may no longer write a body that is not sent. After
    `half_closed` seconds of waiting for a thread, a client that has shut down its side counts as gone. `memory` and
    `disk` are those of a ResponseBuffer.
    """

    look_interval: float = LOOK_INTERVAL
    unseen_timeout: float = UNSEEN_TIMEOUT
    half_closed: float = HALF_CLOSED
    memory: int = MEMORY
    disk: int = DISK

    def buffer(self, pool: ThreadPool, call: AtWork) -> ResponseBuffer:
        """A buffer for the response of `call`."""
        return ResponseBuffer(pool, call, memory=self.memory, disk=self.disk)


BOUNDS = Bounds()


class Opener(Protocol):
    """Begins the response of a call before the call has returned. `bounds` are those of the call."""

    bounds: Bounds

    def open(self, call: Call) -> ResponseBuffer:
        """Make a buffer, and have the response with that buffer as its body (`call.response`) sent."""


class Call:
    """One call of the application: the application is given `start_response`, and its result is given to `conclude`.

    `request`, its body `input`, the `thread` (ident) that makes the call, and `opener` must be set before. The one of
    `conclude`, `finish` and `produce` that reaches the end of the result calls `close`. Where the application,
    `conclude` or `finish` raises, the caller calls `fail`. The body goes to `buffer`, if the head leaves before the
    body is complete.
    """

    # class attributes hold the defaults, and there is no __init__: a Call costs 60 ns to make, not 170
    status = 0
    reason = ""
    headers: Fields = ()
    sent = False  # the head is on its way, so start_response cannot replace it
    thread = 0  # 0 once the call is over
    buffer: ResponseBuffer | None = None
    request: Request
    input: IO[bytes]
    opener: Opener
    _pieces: list[bytes] | None = None  # taken from the application, and not passed on yet
    _result: Iterable[bytes] = ()
    _iterator: Iterator[bytes] = iter(())
    _until = 0.0  # when `unseen_timeout` is over (monotonic seconds); 0 for a body that will be sent
    _next_look = 0.0

    def start_response(self, status: str, headers: Fields, exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". With `exc_info`, raises that again if the head is out already.

        Raises ApplicationError for a second call without `exc_info`, and for an invalid status.
        """
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # else the traceback and its frames would keep each other alive
            self._pieces = None
        elif self.status:
            raise ApplicationError("start_response was called twice, without exc_info")
        self.status, self.reason = _STATUSES.get(status) or _parse_status(status)
        self.headers = headers if type(headers) is list else tuple(headers)  # read more than once: no iterator will do
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's write(): pass `data` on now, after the head; empty data does nothing. Where the client reads
        slowly, it waits in the buffer as yielded pieces do.

        Raises ClientGone, an OSError, if the client is gone, or if `unseen_timeout` is over for a body that is not
        sent; ApplicationError if `data` is not bytes, or write() may not be called now; ForkedError in a forked
        process; and OSError if the disk is full.
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
        """Begin the response with the pieces that have been taken so far. Raises ApplicationError as `write` does."""
        if not self.thread or self.sent:
            raise ApplicationError("write() was called after the response was over")
        if get_ident() != self.thread:
            raise ApplicationError("write() was called first in another thread than the application")
        self.sent = True
        self.headers = tuple(self.headers)  # a copy, as the application may change its list later
        if self._is_unseen():
            self._until = monotonic() + self.opener.bounds.unseen_timeout
        buffer = self.buffer = self.opener.open(self)
        if not self._until:
            buffer.put(self._taken())
        return buffer

    def _is_unseen(self) -> bool:
        """Whether the response must have no body, so that the application's body is not sent."""
        return self.request.method == "HEAD" or self.status in (204, 304)

    def response(self, body: Body) -> Response:
        """The response with this body. Raises ApplicationError where start_response has not been called."""
        self._check_status()
        self.sent = True
        return Response(self.status, self.headers, body, self.reason)

    def _check_status(self) -> None:
        if not self.status:
            raise ApplicationError("the application did not call start_response")

    def conclude(self, result: Iterable[bytes]) -> Response | None:
        """The response made of `result`, any iterable: its body is a file to send, or complete bytes.

        The result is None if the body is not complete: then `produce` must be called next or, if the application has
        used write(), has been called already. If there is a response and `thread` is still set, the application may
        have more to do, for which the response need not wait: then `finish` must be called.

        Raises ApplicationError where the application breaks PEP 3333, Disconnected as `_begin` does, and any exception
        of the application.
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
        if self.buffer is not None:  # the application has used write(), in its call or while it was asked for pieces
            self.produce(self.buffer)
            return None
        if body is None:
            self._check_status()
            return None
        response = self.response(body)
        if isinstance(result, (list, tuple, FileWrapper)):  # no code of the application runs at the end of these
            self.close()
        return response

    def _begin(self, single: bool) -> bytes | None:
        """Take pieces until the first one that is not empty: PEP 3333 allows no head before it. Returns the body if it
        is complete then, else None. Raises Disconnected where the client has left meanwhile.

        A `single` piece is expected to be the only one, so the end is looked for as well. The body is also complete
        where the pieces have the announced Content-Length: then `finish` looks for the end.
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
        """The error for a body that is longer than announced, where it is too late to change the response."""
        return ApplicationError(f"the body is longer than its Content-Length of {self._length()}")

    def finish(self, body: Body = b"") -> bool:
        """Let the application come to its end, after a response whose whole body is `body`. Raises what it raises.

        The result is False if the application yields more than it has announced: then `produce` must be called for the
        longer body.
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
        """As `finish`, while the response may be on its way: an error, or a longer body, is only logged."""
        try:
            if not self.finish():
                raise self.excess()
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            self.fail(error)
            failed(self.request, error)

    def _add(self, piece: Any) -> None:
        """Take a piece that the application has yielded. Raises Disconnected if the client has left, which is checked
        for empty pieces alone, every `look_interval` seconds; ApplicationError if the piece is not bytes.
        """
        piece = to_bytes(piece)
        if piece:
            if self._pieces is None:
                self._pieces = []
            self._pieces.append(piece)
        elif (now := monotonic()) >= self._next_look:
            if self._next_look and self.request.body.client_left:
                raise Disconnected("the client left while the application gave nothing")
            self._next_look = now + self.opener.bounds.look_interval

    def outcome(self, buffer: ResponseBuffer) -> Response:
        """The response with what `produce` puts into `buffer`: bytes if all of it is there, else the buffer."""
        if buffer.whole:
            return self.response(buffer.take())
        return self.response(buffer)

    def produce(self, buffer: ResponseBuffer) -> None:
        """Put the pieces taken so far into `buffer`, then the rest, until the end or until the buffer is abandoned.

        An exception of the application ends the buffer, and is not raised here.
        """
        self.sent = True  # so that start_response cannot replace the head
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
        self.thread = 0  # before the end of the buffer, so that a later write() is refused
        buffer.end(error)
        self.close()

    def fail(self, error: BaseException) -> None:
        """The application has raised `error`: end the buffer with it, if there is one, and close."""
        self.thread = 0
        if self.buffer is not None:
            self.buffer.end(contained(error))
        self.close()

    def _taken(self) -> bytes:
        """The pieces that have been taken, joined; they are forgotten here."""
        pieces, self._pieces = self._pieces, None
        return b"".join(pieces) if pieces else b""

    def _length(self) -> int | None:
        """The Content-Length that the application has announced; None if there is none, or it is malformed."""
        for name, value in self.headers:
            if str(name).lower() == "content-length" and DIGITS.fullmatch(str(value)):
                return int(value)
        return None

    def close(self) -> None:
        """Close `input`, and call the result's close(), whatever became of the response.

        An exception of either is only logged.
        """
        self.thread = 0
        for name, what in (("wsgi.input", self.input), ("a response", self._result)):
            try:
                close = getattr(what, "close", None)
                if close is not None:
                    close()
            except BaseException as error:  # not even SystemExit may end the thread
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
    status = str.__str__(status)  # a plain str, where it is of a subclass
    return int(status[:3]), status[4:]


def to_bytes(piece: Any) -> bytes:
    """`piece` as plain bytes, where it is of a subclass of bytes. Raises ApplicationError where it is no bytes."""
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, bytes):
        raise ApplicationError(f"the application yielded {type(piece).__name__}, not bytes")
    return bytes(memoryview(piece))


def _has_one(result: Any) -> bool:
    """Whether len(result) is 1: its one piece is the whole body (PEP 3333, "Handling the Content-Length Header")."""
    try:
        return len(result) == 1
    except Exception:  # it has no length; or its class must define __len__, and raises there
        return False


def contained(error: BaseException) -> BaseException:
    """`error`, which an application has raised; ApplicationError in its place if it would end a coroutine or the
    process. The `error` is the cause of that one then.
    """
    if not isinstance(error, (GeneratorExit, KeyboardInterrupt, StopIteration, StopAsyncIteration)):
        return error
    failure = ApplicationError(f"the application raised {error!r}")
    failure.__cause__ = error
    return failure
