"""Response heads: Response -> bytes. Owns the framing of responses, and the caches of heads and field blocks.

Applications repeat themselves as clients do: the same status and fields, often the same length. So the fields are
validated once, and whole heads are kept for the second in which their Date is true.
"""

from __future__ import annotations

from collections.abc import Container
from email.utils import formatdate
from time import monotonic, time
from typing import Any

from prefork.bounded import remember
from prefork.errors import ApplicationError
from prefork.http.grammar import DIGITS, FIELD_VALUE, HOP_BY_HOP, NOT_IN_TRAILERS, REASONS, TOKEN
from prefork.http.message import Fields, FileSegment, Repeatable, RequestLine, Response, Upgrade
from prefork.logger import log
from prefork.runtime.throttle import Throttle
from prefork.shared.counters import status_class

ENTRIES = 512  # of each cache
DATE_INTERVAL = 1.0  # seconds, as a Date is written in whole ones
ENTRY_BYTES = 8192  # larger ones are made anew each time; a cache has each entry twice, and so stays below 8 MiB
FIELD = 80  # bytes of each field of an entry, beside its text

# Fields that ask a proxy to send a file in place of the answer (nginx; Apache and lighttpd), and name its path
TO_PROXIES = frozenset(("x-accel-redirect", "x-sendfile", "x-sendfile2", "x-lighttpd-send-file"))
INTERVAL = 60.0  # seconds between two warnings of such a field

_DATE = b"\r\nDate: "
_Key = tuple[int, str, tuple[tuple[str, str], ...], int | None, bool, int, bool]


class Block:
    """A validated block of response fields: `wire` is its bytes, without the fields that the server writes itself.

    `length` is the Content-Length that the application gave, or None. `close` is True where its Connection field asks
    to close the connection. `upgrade` is its Upgrade field, or "". `withheld` is the last field that was dropped
    because it is in `withhold`, or "".
    """

    __slots__ = ("close", "has_date", "has_server", "length", "upgrade", "wire", "withheld")

    def __init__(self, fields: Fields, withhold: Container[str] = ()) -> None:
        """Raises ApplicationError for a name or value that RFC 9110 §5 does not allow: it could split the response."""
        self.length: int | None = None
        self.close = self.has_date = self.has_server = False
        self.upgrade = self.withheld = ""
        lines = []
        for name, value in map(_pair, fields):
            if not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
                raise ApplicationError(f"an invalid response field: {name!r}: {value!r}")
            if name.lower() in withhold:
                self.withheld = name
            elif self._passes(name.lower(), value):
                lines.append(f"{name}: {value}\r\n")
        self.wire = "".join(lines).encode("latin-1")

    def _passes(self, name: str, value: str) -> bool:
        """Note a field that concerns the server. False where the client does not get it as it is."""
        if name == "content-length":
            if not DIGITS.fullmatch(value):
                raise ApplicationError(f"an invalid Content-Length: {value!r}")
            if self.length not in (None, int(value)):
                raise ApplicationError(f"two Content-Lengths that differ: {self.length} and {value}")
            self.length = int(value)
            return False  # the server writes it, once it knows that it is true
        if name in HOP_BY_HOP:
            self.close = self.close or (name == "connection" and "close" in value.lower())
            if name == "upgrade":
                self.upgrade = value
            return False
        self.has_date = self.has_date or name == "date"
        self.has_server = self.has_server or name == "server"
        return True


class Head:
    """A response head: its bytes on the `wire`, and the framing of its body (RFC 9112 §6.3).

    The body has `length` bytes, or is `chunked`, or goes to the end of the connection. Where the head is `silent`, no
    body is sent, even if the response has one. `date` is the offset in `wire` of the value of the server's own Date, or
    0 where the application has written a Date. `counter` is the index of the word that counts answers of this status
    (shared/counters.py).
    """

    __slots__ = ("chunked", "counter", "date", "keep_alive", "length", "silent", "status", "wire")

    def __init__(self, status: int, length: int | None, chunked: bool, keep_alive: bool, silent: bool) -> None:
        self.status = status
        self.counter = status_class(status)
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.silent = silent
        self.date = 0
        self.wire = b""

    @property
    def until_close(self) -> bool:
        """True where the body goes to the end of the connection."""
        return self.length is None and not self.chunked and not self.silent


class Renderer:
    """Renders response heads. All connections of a worker whose clients get the same fields share one.

    `server` is the value of the Server field, or "". The fields `withhold` (lower case) are dropped where an
    application gives them. `idle` is how many seconds a client may count on its connection between two requests; 0: it
    is not told. A head is used for `interval` seconds, and its Date with it. `blocks` and `heads` are the caches.
    """

    def __init__(
        self, server: str, withhold: Container[str] = (), idle: int = 0, interval: float = DATE_INTERVAL
    ) -> None:
        self._server = server
        self._interval = interval
        self._withhold = withhold
        # Connection must name Keep-Alive, as it is of one connection (RFC 9110 §7.6.1); HTTP/1.0 gets Connection anyhow
        self._persistent = f"Connection: keep-alive\r\nKeep-Alive: timeout={idle}\r\n" if idle else ""
        self._notice = Throttle(INTERVAL)
        self.blocks: dict[tuple[tuple[str, str], ...], Block] = {}
        self.heads: dict[_Key, Head] = {}
        self._expires = 0.0
        self._date = b""

    def head(self, response: Response, line: RequestLine, keep_alive: bool, now: float) -> Head:
        """The head of `response` to a request with `line`. `now` is a clock in seconds, by which Date is renewed.

        Raises ApplicationError where the response cannot be sent: an invalid status or field, or a Content-Length that
        is not that of the body.
        """
        body = response.body
        size = len(body) if type(body) is bytes else body.count if type(body) is FileSegment else None
        fields = tuple(response.headers)
        key = (response.status, response.reason, fields, size, line.method == "HEAD", line.minor, keep_alive)
        if now >= self._expires:
            # at the beginning of a second, when the file cache checks its files again, too
            self._expires = (now // self._interval + 1) * self._interval
            self.heads.clear()
            self._date = formatdate(time(), usegmt=True).encode()
        if type(response) is Repeatable and line.method == "GET" and keep_alive and line.minor:
            return self._repeated(response, key, now)
        try:
            head = self.heads.get(key)
        except TypeError:  # unhashable: lists in place of tuples, which other servers accept, too
            response.headers = tuple(map(_pair, fields))
            return self.head(response, line, keep_alive, now)
        if head is None:
            if isinstance(body, Upgrade):
                return self._switch(body, response.status, fields)
            head = self._render(key)
            if len(head.wire) + FIELD * len(fields) <= ENTRY_BYTES:
                remember(self.heads, key, head, ENTRIES)
        return head

    def _repeated(self, response: Repeatable, key: _Key, now: float) -> Head:
        """The head that is kept with `response`. Its Date is replaced when the second is over."""
        memo = response.memo
        head: Head | None = memo.head
        if head is None:
            head = memo.head = self._render(key)
        elif now >= memo.until and head.date:
            before, after = head.wire[: head.date], head.wire[head.date + len(self._date) :]
            head.wire = b"%b%b%b" % (before, self._date, after)
        memo.until = min(self._expires, response.valid)
        return head

    def _render(self, key: _Key) -> Head:
        status, reason, fields, size, head_only, minor, keep_alive = key
        if not 200 <= status <= 999 or not FIELD_VALUE.fullmatch(reason):
            raise ApplicationError(f"an invalid response status: {status} {reason!r}")
        block = self._block(fields)
        head = _frame(status, block, size, head_only, minor, keep_alive)
        lines = self._lines(f"{status} {reason or REASONS.get(status, '')}", block)
        if head.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        elif head.length is not None:
            lines.append(f"Content-Length: {head.length}\r\n")
        if status == 426 and block.upgrade:  # a 426 must name a protocol (RFC 9110 §15.5.22, §7.8)
            lines.append(f"Upgrade: {block.upgrade}\r\nConnection: Upgrade\r\n")
        if not head.keep_alive:
            lines.append("Connection: close\r\n")
        elif self._persistent:
            lines.append(self._persistent)
        elif not minor:
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        head.wire = "".join(lines).encode("latin-1")
        if not block.has_date:
            head.date = head.wire.index(_DATE) + len(_DATE)
        return head

    def _switch(self, upgrade: Upgrade, status: int, fields: Fields) -> Head:
        """The head of a 101, behind which `upgrade` has the connection (RFC 9110 §15.2.2). It is not cached."""
        if status != 101:
            raise ApplicationError(f"an invalid status of an upgrade: {status}")
        lines = self._lines("101 Switching Protocols", Block(fields, self._withhold))
        lines.append(f"Connection: Upgrade\r\nUpgrade: {upgrade.protocol}\r\n\r\n")
        head = Head(101, None, False, False, False)
        head.wire = "".join(lines).encode("latin-1")
        return head

    def _lines(self, status: str, block: Block) -> list[str]:
        """The status line and the fields, without those of framing and connection."""
        lines = [f"HTTP/1.1 {status}\r\n"]
        if self._server and not block.has_server:
            lines.append(f"Server: {self._server}\r\n")
        if not block.has_date:
            lines.append(f"Date: {self._date.decode()}\r\n")
        lines.append(block.wire.decode("latin-1"))
        return lines

    def _block(self, fields: tuple[tuple[str, str], ...]) -> Block:
        block = self.blocks.get(fields)
        if block is None:
            block = Block(fields, self._withhold)
            if block.withheld:
                self._explain(block.withheld)
            if len(block.wire) + FIELD * len(fields) <= ENTRY_BYTES:
                remember(self.blocks, fields, block, ENTRIES)
        return block

    def _explain(self, name: str) -> None:
        if count := self._notice.happened(monotonic()):
            log.warning(
                "an application answers with %s, which tells a proxy to send a file, but no trusted proxy asks "
                "(http.trusted_proxies): the field is dropped, the client gets the body as it is; %d such answers",
                name,
                count,
            )


def trailer_section(fields: Fields) -> bytes:
    """The field lines that stand between the last chunk and the end of the message (RFC 9112 §7.1.2).

    Raises ApplicationError as Block does, and for a field that must not stand there (RFC 9110 §6.5.1).
    """
    lines = []
    for name, value in map(_pair, fields):
        if not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise ApplicationError(f"an invalid trailer field: {name!r}: {value!r}")
        if name.lower() in NOT_IN_TRAILERS:
            raise ApplicationError(f"a field that may not be in a trailer section: {name!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def _pair(field: Any) -> tuple[str, str]:
    """A response field as a tuple of plain str. Raises ApplicationError where it is no pair of str.

    A subclass of str may format itself as another text than its own. Its own text is the one that is validated, and so
    must be the one that is sent.
    """
    if isinstance(field, (tuple, list)) and len(field) == 2:
        name, value = field
        if isinstance(name, str) and isinstance(value, str):
            return str.__str__(name), str.__str__(value)
        raise ApplicationError(f"a response field is not a pair of str: {name!r}: {value!r}")
    raise ApplicationError(f"a response field is not a pair of str: {field!r}")


def _frame(status: int, block: Block, size: int | None, head_only: bool, minor: int, keep_alive: bool) -> Head:
    """Decide on one framing. `size` is the body's, None where it is not known yet. Raises ApplicationError."""
    keep_alive = keep_alive and not block.close
    if status == 204:
        return Head(status, None, False, keep_alive, True)  # no Content-Length either (RFC 9110 §8.6)
    if status == 304:
        return Head(status, block.length, False, keep_alive, True)
    if head_only:  # an empty body does not tell GET's length
        return Head(status, size or None if block.length is None else block.length, False, keep_alive, True)
    if size is not None:
        if block.length not in (None, size):
            raise ApplicationError(f"Content-Length is {block.length}, but the body has {size} bytes")
        return Head(status, size, False, keep_alive, False)
    if block.length is not None:
        return Head(status, block.length, False, keep_alive, False)
    return Head(status, None, bool(minor), keep_alive and bool(minor), False)
