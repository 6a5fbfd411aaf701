"""Response heads: Response -> bytes. Owns the framing of what we send, and the caches of what repeats.

Applications repeat themselves as clients do: the same status and fields, often the same length. So the fields are
validated once, and whole heads are kept for the second that their Date is true.
"""

from __future__ import annotations

from collections.abc import Container
from email.utils import formatdate
from time import monotonic, time
from typing import Any

from prefork.errors import ApplicationError
from prefork.http.grammar import DIGITS, FIELD_VALUE, HOP_BY_HOP, REASONS, TOKEN
from prefork.http.message import Fields, FileSegment, Repeatable, RequestLine, Response, Upgrade
from prefork.logger import log
from prefork.runtime.throttle import Throttle
from prefork.shared.counters import status_class

ENTRIES = 512  # of each cache
ENTRY_BYTES = 8192  # what is larger is made anew each time: so a cache, which has it twice, is never above 8 MiB
FIELD = 80  # bytes of each field of an entry, besides what it says

# What asks a proxy to send a file in the answer's place (nginx; Apache and lighttpd), and tells where it lies
TO_PROXIES = frozenset(("x-accel-redirect", "x-sendfile", "x-sendfile2", "x-lighttpd-send-file"))
INTERVAL = 60.0  # seconds between two times that the log tells of such a field

_DATE = b"\r\nDate: "
_Key = tuple[int, str, tuple[tuple[str, str], ...], int | None, bool, int, bool]


class Block:
    """A validated field block: `wire` is its bytes, without what the server itself says.

    `length` is the Content-Length that the application gave, or None; `close`: it wishes the connection to end;
    `upgrade` is its Upgrade field, or ""; `withheld` the last of the fields that were to be, or "".
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
        """Take note of what the field tells the server; False when the client is not to see it."""
        if name == "content-length":
            if not DIGITS.fullmatch(value):
                raise ApplicationError(f"an invalid Content-Length: {value!r}")
            if self.length not in (None, int(value)):
                raise ApplicationError(f"two Content-Lengths that differ: {self.length} and {value}")
            self.length = int(value)
            return False  # the server says it, once it knows that it is true
        if name in HOP_BY_HOP:
            self.close = self.close or (name == "connection" and "close" in value.lower())
            if name == "upgrade":
                self.upgrade = value
            return False
        self.has_date = self.has_date or name == "date"
        self.has_server = self.has_server or name == "server"
        return True


class Head:
    """A response head: its bytes on the `wire`, and how its body is framed (RFC 9112 §6.3).

    `length` bytes, or `chunked`, or else to the end of the connection; `silent`: no body at all, whatever there is.
    `date` is where in the wire the value of the server's own Date begins, 0 where the application has one of its own;
    `counter` is the word that counts answers of its status (shared/counters.py).
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
        """The body goes to the end of the connection."""
        return self.length is None and not self.chunked and not self.silent


class Renderer:
    """Renders response heads. One for all connections of a worker that get the same; `server` is the Server field's
    value, or "". Of the fields `withhold` (lower case), which an application may have given, its clients get none.
    `idle` is for how many seconds a client may count on its connection between two requests; 0: it is not told.
    """

    def __init__(self, server: str, withhold: Container[str] = (), idle: int = 0) -> None:
        self._server = server
        self._withhold = withhold
        # a field of the connection, which Connection has to name (RFC 9110 §7.6.1); HTTP/1.0 has the latter anyhow
        self._persistent = f"Connection: keep-alive\r\nKeep-Alive: timeout={idle}\r\n" if idle else ""
        self._notice = Throttle(INTERVAL)
        self._blocks: dict[tuple[tuple[str, str], ...], Block] = {}
        self._heads: dict[_Key, Head] = {}
        self._expires = 0.0
        self._date = b""

    def head(self, response: Response, line: RequestLine, keep_alive: bool, now: float) -> Head:
        """The head of `response` to `line`; `now` is a clock in seconds that tells when a second is over.

        Raises ApplicationError where the response cannot be sent: invalid fields, a length that is not true.
        """
        body = response.body
        size = len(body) if type(body) is bytes else body.count if type(body) is FileSegment else None
        fields = tuple(response.headers)
        key = (response.status, response.reason, fields, size, line.method == "HEAD", line.minor, keep_alive)
        if now >= self._expires:
            self._expires = now // 1 + 1.0  # a whole second, at which the file cache looks again, too
            self._heads.clear()
            self._date = formatdate(time(), usegmt=True).encode()
        if type(response) is Repeatable and line.method == "GET" and keep_alive and line.minor:
            return self._repeated(response, key, now)
        try:
            head = self._heads.get(key)
        except TypeError:  # unhashable: lists in the place of tuples, which other servers take, too
            response.headers = tuple(map(_pair, fields))
            return self.head(response, line, keep_alive, now)
        if head is None:
            if isinstance(body, Upgrade):
                return self._switch(body, response.status, fields)
            if len(self._heads) >= ENTRIES:
                self._heads.clear()
            head = self._render(key)
            if len(head.wire) + FIELD * len(fields) <= ENTRY_BYTES:
                self._heads[key] = head
        return head

    def _repeated(self, response: Repeatable, key: _Key, now: float) -> Head:
        """The head that is kept with `response`; in another second, with another Date in it."""
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
        if status == 426 and block.upgrade:  # which has to say what to upgrade to (RFC 9110 §15.5.22, §7.8)
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
        """The head behind which `upgrade` has the connection (RFC 9110 §15.2.2). No two are the same."""
        if status != 101:
            raise ApplicationError(f"an invalid status of an upgrade: {status}")
        lines = self._lines("101 Switching Protocols", Block(fields, self._withhold))
        lines.append(f"Connection: Upgrade\r\nUpgrade: {upgrade.protocol}\r\n\r\n")
        head = Head(101, None, False, False, False)
        head.wire = "".join(lines).encode("latin-1")
        return head

    def _lines(self, status: str, block: Block) -> list[str]:
        """The status line and the fields, save those of framing."""
        lines = [f"HTTP/1.1 {status}\r\n"]
        if self._server and not block.has_server:
            lines.append(f"Server: {self._server}\r\n")
        if not block.has_date:
            lines.append(f"Date: {self._date.decode()}\r\n")
        lines.append(block.wire.decode("latin-1"))
        return lines

    def _block(self, fields: tuple[tuple[str, str], ...]) -> Block:
        block = self._blocks.get(fields)
        if block is None:
            if len(self._blocks) >= ENTRIES:
                del self._blocks[next(iter(self._blocks))]
            block = Block(fields, self._withhold)
            if block.withheld:
                self._explain(block.withheld)
            if len(block.wire) + FIELD * len(fields) <= ENTRY_BYTES:
                self._blocks[fields] = block
        return block

    def _explain(self, name: str) -> None:
        if count := self._notice.happened(monotonic()):
            log.warning(
                "an application answers with %s, which tells a proxy to send a file, but no trusted proxy asks "
                "(http.trusted_proxies): the field is dropped, the client gets the body as it is; %d such answers",
                name,
                count,
            )


def _pair(field: Any) -> tuple[str, str]:
    """A response field as a tuple of plain str. Raises ApplicationError where it is no pair of str.

    What a subclass of str would have itself shown as is not what is looked at, and must not be what is sent.
    """
    if isinstance(field, (tuple, list)) and len(field) == 2:
        name, value = field
        if isinstance(name, str) and isinstance(value, str):
            return str.__str__(name), str.__str__(value)
        raise ApplicationError(f"a response field is not a pair of str: {name!r}: {value!r}")
    raise ApplicationError(f"a response field is not a pair of str: {field!r}")


def _frame(status: int, block: Block, size: int | None, head_only: bool, minor: int, keep_alive: bool) -> Head:
    """Decide on one framing. `size` is the body's, None where only its end will tell."""
    keep_alive = keep_alive and not block.close
    if status == 204:
        return Head(status, None, False, keep_alive, True)  # no Content-Length either (RFC 9110 §8.6)
    if status == 304:
        return Head(status, block.length, False, keep_alive, True)
    if head_only:  # an empty body to HEAD says nothing of the length that GET would see
        return Head(status, size or None if block.length is None else block.length, False, keep_alive, True)
    if size is not None:
        if block.length not in (None, size):
            raise ApplicationError(f"Content-Length is {block.length}, but the body has {size} bytes")
        return Head(status, size, False, keep_alive, False)
    if block.length is not None:
        return Head(status, block.length, False, keep_alive, False)
    return Head(status, None, bool(minor), keep_alive and bool(minor), False)
