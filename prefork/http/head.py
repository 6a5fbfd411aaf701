"""Request heads: bytes -> RequestLine and Headers, by the strict grammar. Owns the two bounded caches.

Clients repeat themselves: a browser sends the same header block with every request of a page. So what has been
validated once is looked up as bytes; what is not known is parsed, and both ways give the very same object.
"""

from __future__ import annotations

from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from prefork.errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    NotImplementedHere,
    TargetTooLong,
    VersionNotSupported,
)
from prefork.http import grammar
from prefork.http.message import Headers, RequestLine

Parsed = TypeVar("Parsed")

ENTRIES = 512  # of each cache
ENTRY_BYTES = 4096  # what is longer is parsed each time: so a cache is never above 2 MiB of keys


class _Cache(dict[bytes, Parsed], Generic[Parsed]):
    """A bounded dict of what has been parsed; the oldest entry makes room (a re-parse is cheap, order is not)."""

    def keep(self, raw: bytes, parsed: Parsed) -> Parsed:
        if len(raw) <= ENTRY_BYTES:
            if len(self) >= ENTRIES:
                del self[next(iter(self))]
            self[raw] = parsed
        return parsed


class Heads:
    """Parses heads within `max_head` bytes and `max_fields` fields. One for all connections of a worker."""

    def __init__(self, max_head: int, max_fields: int) -> None:
        self.max_head = max_head
        self.max_fields = max_fields
        self._lines: _Cache[RequestLine] = _Cache()
        self._blocks: _Cache[Headers] = _Cache()

    def known(self, data: bytes) -> tuple[RequestLine, Headers] | None:
        """The head that all of `data` is, where both its parts have been seen before; None where it must be parsed.

        A known block has no empty line in it, so no search for one is needed: 0.4 us against 1.0 (tests/bench/head.py).
        """
        line_end = data.find(b"\r\n")
        line = self._lines.get(data[:line_end])
        headers = self._blocks.get(data[line_end + 2 : -2])
        if line is None or headers is None or data[-4:] != b"\r\n\r\n" or len(data) - 4 > self.max_head:
            return None
        _check_pair(line, headers)
        return line, headers

    def parse(self, data: bytes, end: int) -> tuple[RequestLine, Headers]:
        """The head in `data[:end]`, `end` being where its empty line begins. Raises ProtocolError."""
        if end > self.max_head:
            raise self._too_large(data)
        line_end = data.find(b"\r\n", 0, end + 2)
        if not line_end and end > 2:  # an empty line before the request line, tolerated once (RFC 9112 §2.2)
            data, line_end, end = data[2:], data.find(b"\r\n", 2, end + 2) - 2, end - 2
        raw_line = data[:line_end]
        raw_block = data[line_end + 2 : end + 2]
        line = self._lines.get(raw_line)
        if line is None:
            line = self._lines.keep(raw_line, parse_line(raw_line))
        headers = self._blocks.get(raw_block)
        if headers is None:
            headers = self._blocks.keep(raw_block, parse_block(raw_block, self.max_fields))
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


def parse_line(raw: bytes) -> RequestLine:
    """A request line without its CRLF (RFC 9112 §3). Raises ProtocolError."""
    match = grammar.REQUEST_LINE.fullmatch(raw)
    if match is None:
        raise BadRequest("a malformed request line (RFC 9112 §3)")
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
            raise BadRequest("a target that is neither a path nor a URL (RFC 9112 §3.2)")
        authority, origin = absolute.groups()
        if not origin.startswith("/"):
            origin = "/" + origin
    if "#" in origin:
        raise BadRequest("a fragment in the target (RFC 9112 §3.2)")
    path, _, query = origin.partition("?")
    return RequestLine(method, target, normalise(path), query, authority, min(int(minor), 1))


def normalise(path: str) -> str:
    """Percent-decode `path` once and resolve its dot segments (RFC 3986 §5.2.4); latin-1, a character a byte.

    Raises BadRequest for a malformed escape, a NUL, and for dot segments that climb above the root.
    """
    if "%" in path:
        if grammar.BAD_ESCAPE.search(path):
            raise BadRequest("a malformed percent-escape in the path (RFC 3986 §2.1)")
        path = unquote_to_bytes(path).decode("latin-1")
        if "\0" in path:
            raise BadRequest("a NUL in the path")
    if "/." not in path:
        return path
    segments = path.split("/")
    kept: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            if not kept:
                raise BadRequest("a path that climbs above the root")
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")  # they name a directory
    return "/" + "/".join(kept)


def parse_block(raw: bytes, max_fields: int) -> Headers:
    """A block of field lines, each with its CRLF (RFC 9112 §5). Raises ProtocolError."""
    if raw.count(b"\r\n") > max_fields:
        raise HeadTooLarge(f"more than http.max_fields ({max_fields}) fields")
    if not grammar.FIELD_BLOCK.fullmatch(raw):
        raise BadRequest("a malformed field line (RFC 9112 §5)")
    pairs = []
    for line in raw.decode("latin-1").split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        pairs.append((name.lower(), value.strip(" \t")))
    headers = Headers(tuple(pairs))
    _interpret(headers)
    return headers


def _interpret(headers: Headers) -> None:
    """Work out what concerns the connection: host, framing, persistence, expectation."""
    hosts = _values(headers, "host")
    if hosts:
        if len(hosts) > 1:
            raise BadRequest("more than one Host (RFC 9112 §3.2)")
        if not grammar.HOST.fullmatch(hosts[0]):
            raise BadRequest("an invalid Host (RFC 9110 §7.2)")
        headers.host = hosts[0]
    _interpret_framing(headers)
    options = {option.strip().lower() for option in headers.get("connection").split(",")}
    if "close" in options:
        headers.keep_alive = False
    elif "keep-alive" in options:
        headers.keep_alive = True
    expectation = headers.get("expect").lower()
    if expectation and expectation != "100-continue":
        raise ExpectationFailed("an expectation other than 100-continue (RFC 9110 §10.1.1)")
    headers.expects_continue = bool(expectation)


def _interpret_framing(headers: Headers) -> None:
    """One framing, beyond doubt: a Content-Length, or a Transfer-Encoding of chunked (RFC 9112 §6)."""
    lengths = _values(headers, "content-length")
    codings = _values(headers, "transfer-encoding")
    if codings:
        if lengths:
            raise BadRequest("Transfer-Encoding and Content-Length together (RFC 9112 §6.1)")
        names = [name.strip(" \t").lower() for name in ",".join(codings).split(",")]
        if names[-1] != "chunked" or names.count("chunked") > 1:
            raise BadRequest("a Transfer-Encoding that does not end in one chunked (RFC 9112 §6.3)")
        if len(names) > 1:
            raise NotImplementedHere("a transfer coding other than chunked (RFC 9112 §6.1)")
        headers.chunked = headers.has_body = True
    elif lengths:
        # two of the same value may be accepted (RFC 9112 §6.3); whoever sends them is broken or hostile
        if len(lengths) > 1 or not grammar.DIGITS.fullmatch(lengths[0]):
            raise BadRequest("an invalid Content-Length (RFC 9110 §8.6)")
        headers.length = int(lengths[0])
        headers.has_body = headers.length > 0


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers.pairs if key == name]
