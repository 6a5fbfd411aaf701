"""Request heads: bytes -> RequestLine and Headers, by the strict grammar. Owns the caches of them, all bounded.

Clients repeat themselves: a browser sends the same header block with every request of a page. So bytes that have been
validated twice are looked up, and all others are parsed. Both ways give the same result.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Generic, TypeVar

from prefork.errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    ProtocolError,
    TargetTooLong,
    VersionNotSupported,
)
from prefork.http import grammar, paths
from prefork.http.message import Headers, Memo, RequestLine
from prefork.http.proxy_fields import PROXY_FIELDS, ProxyFields

Parsed = TypeVar("Parsed")

HEAD_END = b"\r\n\r\n"
LINE_SHOWN = 2048  # bytes of a refused request line that the access log gets
SHOWN, SHOWN_LENGTH = 3, 60  # how many values, and characters of each, an error shows
ENTRIES = 512  # of each cache
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

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes, as `weigh` counts them
        self._met: set[int] = set()  # hashes of bytes that came once
        self._weight = 0

    def weigh(self, raw: bytes, parsed: Parsed) -> int:
        return weight(len(raw))

    def keep(self, raw: bytes, parsed: Parsed) -> Parsed:
        met = self._met
        mark = hash(raw)
        if mark not in met:
            if len(met) >= ENTRIES:
                met.clear()
            met.add(mark)
        elif len(raw) <= ENTRY_BYTES:
            if len(self) >= ENTRIES or self._weight >= self._limit:
                self.clear()
                self._weight = 0
            self._weight += self.weigh(raw, parsed)
            self[raw] = parsed
        return parsed


class _Lines(_Cache[RequestLine]):
    def __missing__(self, raw: bytes) -> RequestLine:
        return self.keep(raw, parse_line(raw))


class _Blocks(_Cache[Headers]):
    def __init__(self, limit: int, max_fields: int, proxy_fields: ProxyFields) -> None:
        super().__init__(limit)
        self._max_fields = max_fields
        self._fields = _Fields(limit, proxy_fields)

    def parse(self, raw: bytes) -> Headers:
        return self.keep(raw, parse_block(raw, self._max_fields, self._fields))

    __missing__ = parse

    def weigh(self, raw: bytes, parsed: Headers) -> int:
        return weight(len(raw), len(parsed.pairs))

    def __setitem__(self, raw: bytes, headers: Headers) -> None:
        headers.shared = True
        super().__setitem__(raw, headers)


class Repeat:
    """A head that came more than once, byte for byte. `memo` is that of its answer to a connection of `protocol`, which
    is that of one listener; None while no answer may be repeated.
    """

    __slots__ = ("memo", "protocol")

    def __init__(self) -> None:
        self.memo: Memo | None = None
        self.protocol: object = None


Whole = tuple[RequestLine, Headers, Repeat | None]


class _Wholes(dict[bytes, Whole]):
    """A bounded dict of whole heads that came more than once. It is emptied when they weigh `limit` bytes.

    Each keeps its block, which several may share, even after the cache of blocks was emptied.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._met: set[int] = set()
        self._blocks: set[Headers] = set()
        self._weight = 0

    def keep(self, data: bytes, line: RequestLine, headers: Headers) -> Whole:
        mark = hash(data)
        if mark not in self._met:
            if len(self._met) >= WHOLE_MET:
                self._met.clear()
            self._met.add(mark)
            return line, headers, None
        if self._weight >= self._limit:
            self.clear()
            self._blocks.clear()
            self._weight = 0
        self._weight += len(data) + weight(len(line.target))
        if headers not in self._blocks:
            self._blocks.add(headers)
            self._weight += weight(len(data) - len(line.target), len(headers.pairs))
        whole = self[data] = line, headers, Repeat()
        return whole


class Heads:
    """Parses heads of up to `max_head` bytes and `max_fields` fields, and finds `proxy_fields` in them.

    All connections of a worker share one. The caches of lines, of blocks and of fields hold `cache_bytes` each, and
    that of whole heads holds `whole_bytes`, as `weight` counts them.
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
        self._lines = _Lines(cache_bytes)
        self._blocks = _Blocks(cache_bytes, max_fields, proxy_fields)
        self._wholes = _Wholes(whole_bytes)

    def whole(self, data: bytes) -> Whole | None:
        """The head, where `data` is exactly one whole head; else None. Raises ProtocolError.

        `data` is not searched for an empty line before its end, which takes 0.4 us less (tests/bench/head.py). A known
        head has none there. In an unknown head an empty line is no valid field line; only then is the search made.
        """
        wholes = self._wholes
        known = wholes.get(data) if wholes else None
        if known is not None:  # byte for byte as before: 0.5 us less than looking up its parts
            return known
        if data[-4:] != HEAD_END:
            return None
        line_end, end = data.find(b"\r\n"), len(data) - 4
        try:
            if not line_end or end > self.max_head:
                return (*self.parse(data, end), None)
            line, raw_block = self._lines[data[:line_end]], data[line_end + 2 : -2]
            headers = self._blocks.get(raw_block)
            if headers is None:
                headers = self._blocks.parse(raw_block)
            if headers.chunked or not headers.host:
                _check_pair(line, headers)
        except ProtocolError:
            if data.find(HEAD_END) != end:
                return None
            raise
        if headers.shared and not headers.has_body and end <= ENTRY_BYTES:
            return wholes.keep(data, line, headers)
        return line, headers, None

    def parse(self, data: bytes, end: int) -> tuple[RequestLine, Headers]:
        """The head in `data[:end]`; at `end` its last CRLF and the empty line begin. Raises ProtocolError."""
        if end > self.max_head:
            raise self._too_large(data)
        line_end = data.find(b"\r\n", 0, end + 2)
        if not line_end and end > 2:  # an empty line before the request line, tolerated once (RFC 9112 §2.2)
            data, line_end, end = data[2:], data.find(b"\r\n", 2, end + 2) - 2, end - 2
        line, headers = self._lines[data[:line_end]], self._blocks[data[line_end + 2 : end + 2]]
        _check_pair(line, headers)
        return line, headers

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


def _check_pair(line: RequestLine, headers: Headers) -> None:
    """Check the rules that depend on both the version and the fields. Raises BadRequest."""
    if line.minor:
        if not headers.host:
            raise BadRequest("an HTTP/1.1 request without Host (RFC 9112 §3.2)")
    elif headers.chunked:
        raise BadRequest("an HTTP/1.0 request with Transfer-Encoding (RFC 9112 §6.1)")


def guess_line(data: bytes) -> RequestLine:
    """The request line that `data` begins with, for an answer and the access log. An invalid one is all target.

    At most LINE_SHOWN bytes of it are read.
    """
    raw = data.removeprefix(b"\r\n")[:LINE_SHOWN].partition(b"\r\n")[0]
    try:
        return parse_line(raw)
    except ProtocolError:
        line = RequestLine("", raw.decode("latin-1"), "-", "", "", 1)
        line.version = ""
        return line


def parse_line(raw: bytes) -> RequestLine:
    """Parse a request line without its CRLF (RFC 9112 §3). Raises ProtocolError."""
    match = grammar.REQUEST_LINE.fullmatch(raw)
    if match is None:
        raise BadRequest(f"a malformed request line (RFC 9112 §3): {_shown(raw)}")
    method, target, major, minor = (part.decode("latin-1") for part in match.groups())
    if major != "1":
        raise VersionNotSupported(f"HTTP/{major}.{minor}")
    if method == "CONNECT":
        raise NotImplementedHere("CONNECT (RFC 9110 §9.3.6): this is no proxy of that kind")
    authority, origin = "", target
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest(f"{method} with the asterisk-form (RFC 9112 §3.2.4)")
        return RequestLine(method, target, "*", "", "", min(int(minor), 1))
    if not target.startswith("/"):
        absolute = grammar.ABSOLUTE_FORM.fullmatch(target)
        if absolute is None or not grammar.HOST.fullmatch(absolute[1]):
            raise BadRequest(f"a target that is neither a path nor a URL (RFC 9112 §3.2): {_shown(target)}")
        authority, origin = absolute.groups()
        if not origin.startswith("/"):
            origin = "/" + origin
    if "#" in origin:
        raise BadRequest("a fragment in the target (RFC 9112 §3.2)")
    path, _, query = origin.partition("?")
    return RequestLine(method, target, paths.decode(path), query, authority, min(int(minor), 1))


class _Fields(_Cache[tuple[str, str]]):
    """Field line with its CR -> (lower-case name, value). Two blocks that differ have most of their lines in common.

    The name of a field that only a proxy may write is put into `met` each time that its line is looked up. So such
    lines are not kept in this dict, but in a cache of their own.
    """

    def __init__(self, limit: int, proxy_fields: ProxyFields) -> None:
        super().__init__(limit)
        self.met: list[str] = []
        self._proxy_fields = proxy_fields
        self._proxys = _Cache[tuple[str, str]](limit)

    def __missing__(self, line: bytes) -> tuple[str, str]:
        pair = self._proxys.get(line) if self._proxys else None
        if pair is None:
            if not grammar.FIELD_LINE_CR.fullmatch(line):
                raise BadRequest(f"a malformed field line (RFC 9112 §5): {_shown(line.strip())}")
            name, _, value = line.decode("latin-1").partition(":")
            pair = (name.lower(), value.strip(" \t\r"))
            if not self._proxy_fields[pair[0]]:
                return self.keep(line, pair)
            self._proxys.keep(line, pair)
        self.met.append(pair[0])
        return pair


_FIELDS = _Fields(CACHE_BYTES, PROXY_FIELDS)


def parse_block(raw: bytes, max_fields: int, known: _Fields = _FIELDS) -> Headers:
    """Parse a block of field lines, each with its CRLF (RFC 9112 §5). Raises ProtocolError.

    Sets the attributes that concern the connection: host, framing, persistence, expectation. Repeated fields have been
    joined by a comma and a space. So a repeated Host, Content-Length or Expect is not valid; a repeated Connection or
    Transfer-Encoding is a list. `known` has the lines that came before.
    """
    lines = raw.split(b"\n")  # 0.2 us less than by CRLF: each line's CR is matched with it
    lines.pop()  # nothing follows the last LF
    if len(lines) > max_fields:
        raise HeadTooLarge(f"more than http.max_fields ({max_fields}) fields")
    known.met.clear()
    headers = Headers((*map(known.__getitem__, lines),))  # 0.4 us less than tuple(map(...)), which grows step by step
    fields = headers.fields
    if known.met:
        headers.proxy_fields = frozenset(known.met)
    if "host" in fields:
        try:
            headers.host = _host(fields["host"])
        except ValueError:
            raise _refusal(headers, "host", "RFC 9112 §3.2") from None
    if "content-length" in fields or "transfer-encoding" in fields:
        _interpret_framing(headers)
    if "connection" in fields:
        value = fields["connection"]
        headers.keep_alive = _PERSISTENCE[value] if value in _PERSISTENCE else _persistence(value)
    if "expect" in fields:
        if fields["expect"].lower() != "100-continue":
            raise ExpectationFailed(f"an expectation other than 100-continue: {_shown(fields['expect'])}")
        headers.expects_continue = True
    return headers


@lru_cache(ENTRIES)
def _host(value: str) -> str:
    """`value`, which is remembered. Raises ValueError where it is no host."""
    if not grammar.HOST.fullmatch(value):
        raise ValueError
    return value


def _refusal(headers: Headers, name: str, section: str) -> BadRequest:
    """The error for a field `name` (lower case) that must be valid and there only once."""
    values = [_shown(value) for key, value in headers.pairs if key == name]
    if len(values) == 1:
        return BadRequest(f"an invalid {name.title()} ({section}): {values[0]}")
    return BadRequest(f"{len(values)} {name.title()} fields ({section}): {', '.join(values[:SHOWN])}")


def _shown(text: str | bytes) -> str:
    """A client's text as an error shows it: quoted, and cut behind SHOWN_LENGTH characters."""
    return repr(text[:SHOWN_LENGTH]) + ("..." if len(text) > SHOWN_LENGTH else "")


_PERSISTENCE = {"keep-alive": True, "Keep-Alive": True, "close": False}  # the values that nearly all clients send


def _persistence(value: str) -> bool | None:
    """Whether Connection keeps the connection open (RFC 9112 §9.3); None where it leaves that to the version."""
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return False if "close" in options else True if "keep-alive" in options else None


def _interpret_framing(headers: Headers) -> None:
    """Set the framing, which must be unambiguous: a Content-Length, or a Transfer-Encoding of chunked (RFC 9112 §6).

    Raises BadRequest, NotImplementedHere.
    """
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            raise BadRequest("Transfer-Encoding and Content-Length together (RFC 9112 §6.1)")
        told = headers.get("transfer-encoding")
        names = [name.strip(" \t") for name in told.lower().split(",")]
        if names[-1] != "chunked" or names.count("chunked") > 1:
            raise BadRequest(f"a Transfer-Encoding that does not end in one chunked (RFC 9112 §6.3): {_shown(told)}")
        if len(names) > 1:
            raise NotImplementedHere(f"a transfer coding other than chunked (RFC 9112 §6.1): {_shown(told)}")
        headers.chunked = headers.has_body = True
    else:
        # RFC 9112 §6.3 allows two of the same value; they are refused, as their sender is broken or hostile
        if not grammar.DIGITS.fullmatch(headers.get("content-length")):
            raise _refusal(headers, "content-length", "RFC 9110 §8.6")
        headers.length = int(headers.get("content-length"))
        headers.has_body = headers.length > 0
