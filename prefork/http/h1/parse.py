"""Request heads: bytes -> RequestLine, Headers and Framing. Owns the caches of them, all bounded.

Clients repeat themselves: a browser sends the same header block with every request of a page. So bytes that have been
validated twice are looked up, and all others are parsed (request_line.py, fields.py). Both ways give the same result.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from prefork.errors import BadRequest, HeadTooLarge, ProtocolError, TargetTooLong
from prefork.http import grammar
from prefork.http.h1.fields import FieldParser, Framing
from prefork.http.h1.request_line import parse_line
from prefork.http.message import Headers, Memo, RequestLine
from prefork.http.proxy_fields import PROXY_FIELDS, ProxyFields

Parsed = TypeVar("Parsed")

HEAD_END = b"\r\n\r\n"
LINES = 4096  # request lines that are kept: sites have more targets than clients have header blocks at a time
BLOCKS = 512  # header blocks that are kept
ENTRY_BYTES = 4096  # longer ones are parsed each time
CACHE_BYTES = 8 << 20  # of each cache, as `weight` counts them
WHOLE_BYTES = 32 << 20  # of whole heads, as `weight` counts them: 10,000 files that a browser asks for take 26 MiB
WHOLE_MET = 16384  # hashes of heads that came once: 1 MiB

# Bytes that are kept with a cached head, at most. They include the objects that `prepared` of its line and block gets.
OVERHEAD = 2048
FIELD = 384  # of each field: its pair, and its places in a dict, a WSGI environ and an ASGI scope
COPIES = 6  # of each byte: as it came, as text, as bytes in a scope, escaped for the access log


def weight(length: int, fields: int = 0) -> int:
    """The bytes that are kept for `length` bytes of a head with so many `fields` in them."""
    return OVERHEAD + COPIES * length + FIELD * fields


class _Cache(dict[bytes, Parsed], Generic[Parsed]):
    """A bounded dict: bytes -> their parsed form. It keeps bytes that came twice, so that unique ones evict nothing.

    A full cache is emptied: to drop only the oldest entry would take 0.3 us, and to parse again is cheap.
    """

    def __init__(self, entries: int, limit: int) -> None:
        self._entries = entries
        self._limit = limit  # bytes, as `weigh` counts them
        self._met: set[int] = set()  # hashes of bytes that came once, at most `entries`
        self._weight = 0

    def weigh(self, raw: bytes, parsed: Parsed) -> int:
        return weight(len(raw))

    def keep(self, raw: bytes, parsed: Parsed) -> Parsed:
        met = self._met
        mark = hash(raw)
        if mark not in met:
            if len(met) >= self._entries:
                met.clear()
            met.add(mark)
        elif len(raw) <= ENTRY_BYTES:
            if len(self) >= self._entries or self._weight >= self._limit:
                self.clear()
                self._weight = 0
            self._weight += self.weigh(raw, parsed)
            self[raw] = parsed
        return parsed


class _Lines(_Cache[RequestLine]):
    def __missing__(self, raw: bytes) -> RequestLine:
        return self.keep(raw, parse_line(raw))


class _Blocks(_Cache[tuple[Headers, Framing]]):
    def __init__(self, entries: int, limit: int, parser: FieldParser) -> None:
        super().__init__(entries, limit)
        self._parse = parser.parse

    def parse(self, raw: bytes) -> tuple[Headers, Framing]:
        return self.keep(raw, self._parse(raw))

    __missing__ = parse

    def weigh(self, raw: bytes, parsed: tuple[Headers, Framing]) -> int:
        return weight(len(raw), raw.count(b"\n"))

    def __setitem__(self, raw: bytes, parsed: tuple[Headers, Framing]) -> None:
        parsed[0].shared = True
        super().__setitem__(raw, parsed)


class Repeat:
    """A head that came more than once, byte for byte. `memo` is that of its answer to a connection of `protocol`, which
    is that of one listener; None while no answer may be repeated.
    """

    __slots__ = ("memo", "protocol")

    def __init__(self) -> None:
        self.memo: Memo | None = None
        self.protocol: object = None


Head = tuple[RequestLine, Headers, Framing]
Whole = tuple[RequestLine, Headers, Framing, Repeat | None]


class _Wholes(dict[bytes, Whole]):
    """A bounded dict of whole heads that came more than once. It is emptied when they weigh `limit` bytes.

    Each keeps its block, which several may share, even after the cache of blocks was emptied.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._met: set[int] = set()
        self._blocks: set[Headers] = set()
        self._weight = 0

    def keep(self, data: bytes, line: RequestLine, headers: Headers, framing: Framing) -> Whole:
        mark = hash(data)
        if mark not in self._met:
            if len(self._met) >= WHOLE_MET:
                self._met.clear()
            self._met.add(mark)
            return line, headers, framing, None
        if self._weight >= self._limit:
            self.clear()
            self._blocks.clear()
            self._weight = 0
        self._weight += len(data) + weight(len(line.target))
        if headers not in self._blocks:
            self._blocks.add(headers)
            self._weight += weight(len(data) - len(line.target), data.count(b"\n"))
        whole = self[data] = line, headers, framing, Repeat()
        return whole


class Heads:
    """Parses heads of up to `max_head` bytes and `max_fields` fields, and finds `proxy_fields` in them.

    All connections of a worker share one. The caches are `lines` and `blocks`, which hold `cache_bytes` each, and
    `wholes`, of whole heads, which holds `whole_bytes`, as `weight` counts them.
    """

    def __init__(
        self,
        max_head: int,
        max_fields: int,
        proxy_fields: ProxyFields = PROXY_FIELDS,
        *,
        cache_bytes: int = CACHE_BYTES,
        whole_bytes: int = WHOLE_BYTES,
    ) -> None:
        self.max_head = max_head
        self.lines = _Lines(LINES, cache_bytes)
        self.blocks = _Blocks(BLOCKS, cache_bytes, FieldParser(max_fields, proxy_fields))
        self.wholes = _Wholes(whole_bytes)

    def whole(self, data: bytes) -> Whole | None:
        """The head, where `data` is exactly one whole head; else None. Raises ProtocolError.

        `data` is not searched for an empty line before its end, which takes 0.4 us less (tests/bench/head.py). A known
        head has none there. In an unknown head an empty line is no valid field line; only then is the search made.
        """
        wholes = self.wholes
        known = wholes.get(data) if wholes else None
        if known is not None:  # byte for byte as before: 0.5 us less than looking up its parts
            return known
        if data[-4:] != HEAD_END:
            return None
        line_end, end = data.find(b"\r\n"), len(data) - 4
        try:
            if not line_end or end > self.max_head:
                return (*self.parse(data, end), None)
            line, raw_block = self.lines[data[:line_end]], data[line_end + 2 : -2]
            headers, framing = self.blocks.get(raw_block) or self.blocks.parse(raw_block)
            if framing.chunked or "host" not in headers.fields:
                _check_pair(line, headers, framing)
        except ProtocolError:
            if data.find(HEAD_END) != end:
                return None
            raise
        if headers.shared and not framing.has_body and end <= ENTRY_BYTES:
            return wholes.keep(data, line, headers, framing)
        return line, headers, framing, None

    def parse(self, data: bytes, end: int) -> Head:
        """The head in `data[:end]`; at `end` its last CRLF and the empty line begin. Raises ProtocolError."""
        if end > self.max_head:
            raise self._too_large(data)
        line_end = data.find(b"\r\n", 0, end + 2)
        if not line_end and end > 2:  # an empty line before the request line, tolerated once (RFC 9112 §2.2)
            data, line_end, end = data[2:], data.find(b"\r\n", 2, end + 2) - 2, end - 2
        line, (headers, framing) = self.lines[data[:line_end]], self.blocks[data[line_end + 2 : end + 2]]
        _check_pair(line, headers, framing)
        return line, headers, framing

    def check_partial(self, data: bytes, known: int) -> None:
        """Raise ProtocolError where `data`, a head without its end, is too large, begins with no method, or has a line
        that ends in a bare LF.

        Its first `known` bytes were checked before, so that a head which drips in is not searched from its beginning
        each time.
        """
        if len(data) > self.max_head + 3:  # three bytes of its end may have come
            raise self._too_large(data)
        start = data.removeprefix(b"\r\n")[:33]
        if start not in (b"", b"\r") and not grammar.LINE_START.match(start):
            raise BadRequest("not an HTTP request")
        if data.count(b"\n", known) != data.count(b"\r\n", max(0, known - 1)):
            raise BadRequest("a line that ends in a bare LF (RFC 9112 §2.2)")

    def _too_large(self, data: bytes) -> HeadTooLarge | TargetTooLong:
        if data.find(b"\r\n", 2, self.max_head) < 0:  # from 2 on: an empty line may have come first
            return TargetTooLong(f"a request line beyond http.max_head ({self.max_head} bytes)")
        return HeadTooLarge(f"a head beyond http.max_head ({self.max_head} bytes)")


def _check_pair(line: RequestLine, headers: Headers, framing: Framing) -> None:
    """Check the rules that depend on both the version and the fields. Raises BadRequest."""
    if line.minor:
        if "host" not in headers:
            raise BadRequest("an HTTP/1.1 request without Host (RFC 9112 §3.2)")
    elif framing.chunked:
        raise BadRequest("an HTTP/1.0 request with Transfer-Encoding (RFC 9112 §6.1)")
