"""WSGI applications (PEP 3333), called inline in the loop.

What repeats is prepared once: the part of the environ that comes from a header block, and the part that comes from a
request line, live as long as those do (head.py); a request copies the one and adds the other.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import IO, Any

from prefork import __version__
from prefork.errors import ApplicationError
from prefork.http.grammar import DIGITS, REASONS
from prefork.http.message import Body, Fields, FileSegment, Headers, Request, RequestLine, Response
from prefork.kernel.loop import PAUSE

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

log = logging.getLogger("prefork")


class Wsgi:
    """Calls `application` for requests below `mount` ("" or "/prefix"); `handle` is the Handler."""

    def __init__(self, application: Application, mount: str, *, multiprocess: bool) -> None:
        self._application = application
        self._mount = mount
        self._constant: Environ = {
            "SERVER_SOFTWARE": f"prefork/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": ErrorStream(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,  # reading to the end is safe: the body is there, or there is none
        }

    async def handle(self, request: Request) -> Response:
        """Raises whatever the application raises, and ApplicationError where it breaks PEP 3333."""
        line, headers, client = request.line, request.headers, request.client
        from_headers = headers.views.get(self)
        if from_headers is None:
            from_headers = headers.views[self] = {**self._constant, **_fields(headers)}
        from_line = line.views.get(self)
        if from_line is None:
            from_line = line.views[self] = self._line(line)
        environ: Environ = from_headers.copy()
        environ.update(from_line)
        environ["REMOTE_ADDR"] = client.address
        environ["REMOTE_PORT"] = client.port
        environ["SERVER_NAME"] = client.server_name
        environ["SERVER_PORT"] = client.server_port
        environ["wsgi.url_scheme"] = client.scheme
        if headers.has_body:
            environ["wsgi.input"] = body = await request.body.spool()
            if headers.chunked:  # all of it has arrived, so its length is known: Django reads no body without
                environ["CONTENT_LENGTH"] = str(body.seek(0, os.SEEK_END))
                body.seek(0)
        else:
            environ["wsgi.input"] = body = io.BytesIO()
        call = _Call()
        try:
            result = self._application(environ, call.start_response)
        except BaseException:
            body.close()
            raise
        if type(result) is list and not call.written and call.status:
            body.close()
            content = _bytes(result[0]) if len(result) == 1 else b"".join(map(_bytes, result))
            return Response(call.status, call.headers, content, call.reason)
        return await call.conclude(result, body)

    def _line(self, line: RequestLine) -> Environ:
        environ: Environ = {
            "REQUEST_METHOD": line.method,
            "SCRIPT_NAME": self._mount,
            "PATH_INFO": line.path[len(self._mount) :],
            "QUERY_STRING": line.query,
            "SERVER_PROTOCOL": line.version,
            "REQUEST_URI": line.target,
            "RAW_URI": line.target,
        }
        if line.authority:
            environ["HTTP_HOST"] = line.authority
        return environ


def _fields(headers: Headers) -> Environ:
    """The request fields as CGI variables (RFC 3875 §4.1.18)."""
    environ: Environ = {_variable(name): value for name, value in headers.fields.items()}
    environ.pop("", None)
    return environ


@lru_cache(512)
def _variable(name: str) -> str:
    """The variable of a field; "" for one that is withheld, since it could pose as another: a name with "_" would alias
    the one with "-", and HTTP_PROXY is a setting of many HTTP clients (CVE-2016-5385).
    """
    if "_" in name or name in ("proxy", "transfer-encoding"):
        return ""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + variable


class _Call:
    """One call of the application: what it said by start_response, and what becomes of it."""

    # defaults of the class instead of an __init__: a call costs 60 ns to make, not 170
    status = 0
    reason = ""
    headers: Fields = ()
    written: list[bytes] | None = None  # what is to go out first: what the application gave to write(), say
    sent = False

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
        """PEP 3333's imperative way out. Buffered: the call is inline, and what is written leaves when it returns."""
        if _bytes(data):
            if self.written is None:
                self.written = []
            self.written.append(data)

    def response(self, body: Body) -> Response:
        """Raises ApplicationError where start_response has not been called."""
        if not self.status:
            raise ApplicationError("the application did not call start_response")
        self.sent = True
        return Response(self.status, self.headers, body, self.reason)

    async def conclude(self, result: Iterable[bytes], input: IO[bytes]) -> Response:
        """The response for any iterable: a file to send, a body that is complete at once, or one piece by piece."""
        pieces = _Pieces(result, self, input)
        try:
            if isinstance(result, FileWrapper) and not self.written:
                segment = result.segment(self.length(), pieces.close)
                if segment is not None:
                    return self.response(segment)
            await pieces.begin()
            if not pieces.complete:
                return self.response(pieces)
        except BaseException:
            pieces.close()
            raise
        pieces.close()
        return self.response(b"".join(self.written or ()))

    def length(self) -> int | None:
        """The Content-Length that the application has announced, if it is one."""
        for name, value in self.headers:
            if str(name).lower() == "content-length" and DIGITS.fullmatch(str(value)):
                return int(value)
        return None


class _Pieces:
    """An application's iterable as Chunks. What has been taken from it but not sent stands in `call.written`."""

    def __init__(self, result: Iterable[bytes], call: _Call, input: IO[bytes]) -> None:
        self._result = result
        self._iterator: Iterator[bytes] = iter(())
        self._call = call
        self._input = input
        self._closed = False
        self.complete = False

    async def begin(self) -> None:
        """Take pieces until the first that is not empty, before which PEP 3333 has no head sent.

        Where that one is all that Content-Length announces, look for the end too: then the whole goes out at once.
        """
        self._iterator = iter(self._result)
        call = self._call
        while not call.written or call.length() == sum(map(len, call.written)):
            piece = next(self._iterator, _END)
            if piece is _END:
                self.complete = True
                return
            call.write(piece)
            if not piece:
                await PAUSE  # it has nothing yet: others may

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        call = self._call
        if not call.written:
            piece = next(self._iterator, _END)
            if not call.written:
                if piece is _END:
                    raise StopAsyncIteration
                return _bytes(piece)
            if piece is not _END:  # it comes after what the iterable has just written
                call.write(piece)
        written, call.written = call.written, None
        return b"".join(written or ())

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Call the iterable's close(), once, whatever became of the response; where that fails, it is only logged."""
        if self._closed:
            return
        self._closed = True
        self._input.close()
        close = getattr(self._result, "close", None)
        if close is not None:
            try:
                close()
            except (Exception, SystemExit) as error:
                log.error("close() of a response failed: %r", error, exc_info=error)


_END: Any = object()

_STATUS = re.compile(r"[2-5][0-9]{2}(?: |\Z)")
_STATUSES = {f"{code} {reason}": (code, reason) for code, reason in REASONS.items()}


def _parse_status(status: str) -> tuple[int, str]:
    """ "404 Nothing here" -> its code and reason. Raises ApplicationError."""
    if not isinstance(status, str) or not _STATUS.match(status):
        raise ApplicationError(f"start_response got an invalid status: {status!r}")
    return int(status[:3]), status[4:]


def _bytes(piece: Any) -> bytes:
    if type(piece) is not bytes:
        raise ApplicationError(f"the application yielded {type(piece).__name__}, not bytes")
    return piece


class FileWrapper:
    """wsgi.file_wrapper: an iterable over a file, which is sent by sendfile(2) where it is one on disk.

    It ends where the file does or, once `segment` knows it, with the response's Content-Length (PEP 3333).
    """

    def __init__(self, file: Any, block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size
        self._left = sys.maxsize
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        while data := self.file.read(min(self.block_size, self._left)):
            self._left -= len(data)
            yield data

    def segment(self, length: int | None, close: Callable[[], None]) -> FileSegment | None:
        """From the file's position on, at most `length` bytes; None for what only looks like a file (gzip, say)."""
        if length is not None:
            self._left = length
        try:
            # a reader may stand on top of something else, which has the descriptor of a file with other contents
            raw = self.file.raw if type(self.file) in (io.BufferedReader, io.BufferedRandom) else self.file
            if type(raw) is not io.FileIO:
                return None
            offset, status = self.file.tell(), os.fstat(raw.fileno())
        except (OSError, ValueError):
            return None
        count = min(status.st_size - offset, self._left)
        if not stat.S_ISREG(status.st_mode) or count <= 0:  # files of /proc say that they are empty
            return None
        return FileSegment(raw.fileno(), offset, count, close)


class ErrorStream:
    """wsgi.errors: whole lines go to the error log."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.error("application: %s", line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._line:
            line, self._line = self._line, ""
            log.error("application: %s", line)
