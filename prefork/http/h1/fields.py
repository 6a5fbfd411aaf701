"""Field lines: bytes -> Headers and Framing, by the strict grammar (RFC 9112 §5, §6). Owns the names that have come.

Nearly all clients write a field as its name, a colon, one space, and a value without a tab. A block of such lines is
checked as a whole and split in one pass: 4 us for 17 fields, where the grammar takes 20 (tests/bench/head.py). Any
other block, and one that has a name which never came, is matched line by line. Both ways give the same result.
"""

from __future__ import annotations

from functools import lru_cache

from prefork.bounded import LONGEST_NAME, NAMES
from prefork.errors import BadRequest, ExpectationFailed, HeadTooLarge, NotImplementedHere
from prefork.http import grammar
from prefork.http.h1.shown import shown
from prefork.http.message import Headers
from prefork.http.proxy_fields import PROXY_FIELDS, ProxyFields

HOSTS = 512  # that are remembered
SHOWN = 3  # values that an error shows

VISIBLE = bytes((*range(0x20, 0x7F), *range(0x80, 0x100)))  # RFC 9110 §5.5, all that a value may have but the tab


class Framing:
    """The framing of a body (RFC 9112 §6) and the persistence of the connection (§9.3), by its field block. Immutable.

    `length` is the Content-Length, or None. `keep_alive` is None where the version decides.
    """

    __slots__ = ("chunked", "expects_continue", "has_body", "keep_alive", "length")

    def __init__(
        self,
        keep_alive: bool | None = None,
        length: int | None = None,
        *,
        chunked: bool = False,
        expects_continue: bool = False,
    ) -> None:
        self.keep_alive = keep_alive
        self.length = length
        self.chunked = chunked
        self.has_body = chunked or bool(length)
        self.expects_continue = expects_continue


_BODILESS = {keep_alive: Framing(keep_alive) for keep_alive in (None, True, False)}  # of nearly all requests


class FieldParser:
    """Parses blocks of up to `max_fields` field lines, and finds `proxy_fields` in them.

    `_names` are the names that have come, as clients write them, with the colon behind, in lower case; `_of_proxies`
    are those of them that only a proxy may write. Only a block that is matched adds to the two, or empties them.
    """

    def __init__(self, max_fields: int, proxy_fields: ProxyFields = PROXY_FIELDS) -> None:
        self._max_fields = max_fields
        self._proxy_fields = proxy_fields
        self._names: dict[str, str] = {}
        self._of_proxies: set[str] = set()

    def parse(self, raw: bytes) -> tuple[Headers, Framing]:
        """Parse a block of field lines, each with its CRLF. Raises ProtocolError.

        Repeated fields have been joined by a comma and a space. So a repeated Host, Content-Length or Expect is not
        valid; a repeated Connection or Transfer-Encoding is a list.
        """
        lines = raw.decode("latin-1").split("\r\n")
        # without all bytes that a line may have, the CRLFs are left, and no other CR or LF
        if lines.pop() or raw.translate(None, VISIBLE) != b"\r\n" * len(lines) or len(lines) > self._max_fields:
            return _with_framing(self._match(raw))
        names = self._names
        fields = {}
        try:
            for line in lines:
                name, _, value = line.partition(" ")
                fields[names[name]] = value.strip(" ")
        except KeyError:  # a new name, or no space behind the colon
            return _with_framing(self._match(raw))
        if len(fields) == len(lines):
            headers = Headers(fields)
        else:
            pairs = [(names[(parts := line.partition(" "))[0]], parts[2].strip(" ")) for line in lines]
            headers = Headers.of(tuple(pairs))
        if not self._of_proxies.isdisjoint(fields):
            headers.proxy_fields = frozenset(self._of_proxies.intersection(fields))
        return _with_framing(headers)

    def _match(self, raw: bytes) -> Headers:
        """Headers of any block; its names are remembered. Raises BadRequest, HeadTooLarge."""
        lines = raw.split(b"\n")  # each line's CR is matched with it
        lines.pop()  # nothing follows the last LF
        if len(lines) > self._max_fields:
            raise HeadTooLarge(f"more than http.max_fields ({self._max_fields}) fields")
        pairs = []
        for line in lines:
            if not grammar.FIELD_LINE_CR.fullmatch(line):
                raise BadRequest(f"a malformed field line (RFC 9112 §5): {shown(line.strip())}")
            name, _, value = line.decode("latin-1").partition(":")
            pairs.append((name.lower(), value.strip(" \t\r")))
            self._remember(name)
        headers = Headers.of(tuple(pairs))
        of_proxies = [name for name in headers.fields if self._proxy_fields[name]]
        if of_proxies:
            headers.proxy_fields = frozenset(of_proxies)
        return headers

    def _remember(self, written: str) -> None:
        if len(written) > LONGEST_NAME or f"{written}:" in self._names:
            return
        if len(self._names) >= NAMES:
            self._names.clear()
            self._of_proxies.clear()
        name = self._names[f"{written}:"] = written.lower()
        if self._proxy_fields[name]:
            self._of_proxies.add(name)


def _with_framing(headers: Headers) -> tuple[Headers, Framing]:
    """`headers`, and what they say of the framing and the connection. Raises ProtocolError where that is not valid, or
    Host is not.
    """
    fields = headers.fields
    if "host" in fields:
        try:
            _check_host(fields["host"])
        except ValueError:
            raise _refusal(headers, "host", "RFC 9112 §3.2") from None
    keep_alive = None
    if "connection" in fields:
        value = fields["connection"]
        keep_alive = _PERSISTENCE[value] if value in _PERSISTENCE else persistence(value)
    if "content-length" in fields or "transfer-encoding" in fields or "expect" in fields:
        chunked, length = _framing(headers)
        return headers, Framing(keep_alive, length, chunked=chunked, expects_continue=_expects_continue(headers))
    return headers, _BODILESS[keep_alive]


@lru_cache(HOSTS)
def _check_host(value: str) -> None:
    """Raises ValueError where `value` is no host. A valid one is remembered."""
    if not grammar.HOST.fullmatch(value):
        raise ValueError


_PERSISTENCE = {"keep-alive": True, "Keep-Alive": True, "close": False}  # the values that nearly all clients send


def persistence(value: str) -> bool | None:
    """Whether this value of Connection keeps the connection open (RFC 9112 §9.3); None where the version decides."""
    options = {option.strip(" \t") for option in value.lower().split(",")}
    return False if "close" in options else True if "keep-alive" in options else None


def _expects_continue(headers: Headers) -> bool:
    """Raises ExpectationFailed for any other expectation (RFC 9110 §10.1.1)."""
    value = headers.get("expect", "100-continue")
    if value.lower() != "100-continue":
        raise ExpectationFailed(f"an expectation other than 100-continue: {shown(value)}")
    return "expect" in headers


def _framing(headers: Headers) -> tuple[bool, int | None]:
    """Whether the body is chunked, and its Content-Length. Only one of them may be told (RFC 9112 §6).

    Raises BadRequest, NotImplementedHere.
    """
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            raise BadRequest("Transfer-Encoding and Content-Length together (RFC 9112 §6.1)")
        told = headers.get("transfer-encoding")
        names = [name.strip(" \t") for name in told.lower().split(",")]
        if names[-1] != "chunked" or names.count("chunked") > 1:
            raise BadRequest(f"a Transfer-Encoding that does not end in one chunked (RFC 9112 §6.3): {shown(told)}")
        if len(names) > 1:
            raise NotImplementedHere(f"a transfer coding other than chunked (RFC 9112 §6.1): {shown(told)}")
        return True, None
    if "content-length" not in headers:
        return False, None
    # RFC 9112 §6.3 allows two of the same value; they are refused, as their sender is broken or hostile
    if not grammar.DIGITS.fullmatch(headers.get("content-length")):
        raise _refusal(headers, "content-length", "RFC 9110 §8.6")
    return False, int(headers.get("content-length"))


def _refusal(headers: Headers, name: str, section: str) -> BadRequest:
    """The error for a field `name` (lower case) that must be valid and there only once."""
    values = [shown(value) for key, value in headers.pairs if key == name]
    if len(values) == 1:
        return BadRequest(f"an invalid {name.title()} ({section}): {values[0]}")
    return BadRequest(f"{len(values)} {name.title()} fields ({section}): {', '.join(values[:SHOWN])}")
