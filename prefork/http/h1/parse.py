"""Request heads: bytes -> RequestLine and Headers, by the strict grammar. Owns the caches of them, all bounded.

Clients repeat themselves: a browser sends the same header block with every request of a page. So what has been
validated twice is looked up as bytes; what is not known is parsed, and both ways give the same.
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
LINE_SHOWN = 2048  # bytes: of a request line that is refused, what the access log gets
SHOWN, SHOWN_LENGTH = 3, 60  # values, and characters of each, that an error shows
ENTRIES = 512  # of each cache
ENTRY_BYTES = 4096  # what is longer is parsed each time
CACHE_BYTES = 8 << 20  # of each cache, as `weight` has it
WHOLE_BYTES = 32 << 20  # of heads that are known as a whole: 10,000 files that a browser asks for make 26 MiB
WHOLE_MET = 16384  # hashes of what came once: 1 MiB

# What is kept with a head that is known, the views that its line and block get in time included: at most, in bytes.
OVERHEAD = 2048
FIELD = 384  # each: its pair, and its places in a dict, a WSGI environ and an ASGI scope
COPIES = 6  # of each byte: as it came, as text, as bytes in a scope, escaped for the access log


def weight(length: int, fields: int = 0) -> int:
    """How much is kept with so many bytes of a head, and so many fields in them."""
    return OVERHEAD + COPIES * length + FIELD * fields


class _Cache(dict[bytes, Parsed], Generic[Parsed]):
    """A bounded dict of what has been parsed, from the second time on: what never comes again pushes nothing out.

    What is full is emptied: to drop the oldest entry would take 0.3 us, and a re-parse is cheap.
    """

    def __init__(self) -> None:
        self._met: set[int] = set()  # hashes of what came once
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
            if len(self) >= ENTRIES or self._weight >= CACHE_BYTES:
                self.clear()
                self._weight = 0
            self._weight += self.weigh(raw, parsed)
            self[raw] = parsed
        return parsed


class _Lines(_Cache[RequestLine]):
    def __missing__(self, raw: bytes) -> RequestLine:
        return self.keep(raw, parse_line(raw))


class _Blocks(_Cache[Headers]):
    def __init__(self, max_fields: int, proxy_fields: ProxyFields) -> None:
        super().__init__()
        self._max_fields = max_fields
        self._fields = _Fields(proxy_fields)

    def parse(self, raw: bytes) -> Headers:
        return self.keep(raw, parse_block(raw, self._max_fields, self._fields))

    __missing__ = parse

    def weigh(self, raw: bytes, parsed: Headers) -> int:
        return weight(len(raw), len(parsed.pairs))

    def __setitem__(self, raw: bytes, headers: Headers) -> None:
        headers.shared = True
        super().__setitem__(raw, headers)


class Repeat:
    """How a head that came more than once, byte for byte, was answered last, and to connections of which `protocol`,
    which is that of a listener; None while there is no answer that may be repeated.
    """

    __slots__ = ("memo", "protocol")

    def __init__(self) -> None:
        self.memo: Memo | None = None
        self.protocol: object = None


Whole = tuple[RequestLine, Headers, Repeat | None]


class _Wholes(dict[bytes, Whole]):
    """Whole heads that came more than once, within WHOLE_BYTES; emptied when they are more.

    Each keeps its block, which others may share, though that is known by itself no more.
    """

    def __init__(self) -> None:
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
        if self._weight >= WHOLE_BYTES:
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
    """Parses heads within `max_head` bytes and `max_fields` fields, and finds `proxy_fields` in them. One for all
    connections of a worker.
    """

    def __init__(self, max_head: int, max_fields: int, proxy_fields: ProxyFields = PROXY_FIELDS) -> None:
        self.max_head = max_head
        self._lines = _Lines()
        self._blocks = _Blocks(max_fields, proxy_fields)
        self._wholes = _Wholes()

    def whole(self, data: bytes) -> Whole | None:
        """The head that all of `data` is; None where it is not one head exactly. Raises ProtocolError.

        No empty line is searched for in it: one that is known has none, which takes 0.4 us less (tests/bench/head.py),
        and one that is not known is refused with one, for that is no field.
        """
        wholes = self._wholes
        known = wholes.get(data) if wholes else None
        if known is not None:  # byte for byte as before: 0.5 us less than to look its parts up
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
        """The head in `data[:end]`, `end` being where its empty line begins. Raises ProtocolError."""
        if end > self.max_head:
            raise self._too_large(data)
        line_end = data.find(b"\r\n", 0, end + 2)
        if not line_end and end > 2:  # an empty line before the request line, tolerated once (RFC 9112 §2.2)
            data, line_end, end = data[2:], data.find(b"\r\n", 2, end + 2) - 2, end - 2
        line, headers = self._lines[data[:line_end]], self._blocks[data[line_end + 2 : end + 2]]
        _check_pair(line, headers)
        return line, headers

    def check_partial(self, data: bytes, known: int) -> None:
        """Raise ProtocolError as soon as `data`, a head without its end, cannot become a valid one.

        Its first `known` bytes have passed before, so that a head which drips in is not looked through each time.
        """
        if len(data) > self.max_head + 3:  # three bytes of its end may be there
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
    """What depends on both the version and the fields."""
    if line.minor:
        if not headers.host:
            raise BadRequest("an HTTP/1.1 request without Host (RFC 9112 §3.2)")
    elif headers.chunked:
        raise BadRequest("an HTTP/1.0 request with Transfer-Encoding (RFC 9112 §6.1)")


def guess_line(data: bytes) -> RequestLine:
    """The request line that `data` begins with; a target that is all of it, as it came, where it is not a valid one."""
    raw = data.removeprefix(b"\r\n")[:LINE_SHOWN].partition(b"\r\n")[0]
    try:
        return parse_line(raw)
    except ProtocolError:
        line = RequestLine("", raw.decode("latin-1"), "-", "", "", 1)
        line.version = ""
        return line


def parse_line(raw: bytes) -> RequestLine:
    """A request line without its CRLF (RFC 9112 §3). Raises ProtocolError."""
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
    """Field line with its CR -> (lower-case name, value). Of two blocks that differ, most lines are the same.

    The names of fields that only a proxy may write are put into `met`, each time: so lines of those are known apart.
    """

    def __init__(self, proxy_fields: ProxyFields) -> None:
        super().__init__()
        self.met: list[str] = []
        self._proxy_fields = proxy_fields
        self._proxys = _Cache[tuple[str, str]]()

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


_FIELDS = _Fields(PROXY_FIELDS)


def parse_block(raw: bytes, max_fields: int, known: _Fields = _FIELDS) -> Headers:
    """A block of field lines, each with its CRLF (RFC 9112 §5). Raises ProtocolError.

    What concerns the connection is worked out: host, framing, persistence, expectation. Repeated fields have been
    joined by a comma and a space, which none of the grammars for those lets pass. `known` are lines that came before.
    """
    lines = raw.split(b"\n")  # 0.2 us less than by CRLF: each line's CR is matched with it
    lines.pop()  # what follows the last LF: nothing
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
    """`value`; ValueError where it is no host, which is not remembered."""
    if not grammar.HOST.fullmatch(value):
        raise ValueError
    return value


def _refusal(headers: Headers, name: str, section: str) -> BadRequest:
    """What is wrong with a field (lower case) that is to be there once, and valid."""
    values = [_shown(value) for key, value in headers.pairs if key == name]
    if len(values) == 1:
        return BadRequest(f"an invalid {name.title()} ({section}): {values[0]}")
    return BadRequest(f"{len(values)} {name.title()} fields ({section}): {', '.join(values[:SHOWN])}")


def _shown(text: str | bytes) -> str:
    """What a client has said, as an error says it again: quoted, and not all of it where it is long."""
    return repr(text[:SHOWN_LENGTH]) + ("..." if len(text) > SHOWN_LENGTH else "")


_PERSISTENCE = {"keep-alive": True, "Keep-Alive": True, "close": False}  # what nearly everybody says


def _persistence(value: str) -> bool | None:
    """What Connection says of the connection's life (RFC 9112 §9.3); None leaves it to the version."""
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return False if "close" in options else True if "keep-alive" in options else None


def _interpret_framing(headers: Headers) -> None:
    """One framing, beyond doubt: a Content-Length, or a Transfer-Encoding of chunked (RFC 9112 §6)."""
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
        # two of the same value may be accepted (RFC 9112 §6.3); whoever sends them is broken or hostile
        if not grammar.DIGITS.fullmatch(headers.get("content-length")):
            raise _refusal(headers, "content-length", "RFC 9110 §8.6")
        headers.length = int(headers.get("content-length"))
        headers.has_body = headers.length > 0
