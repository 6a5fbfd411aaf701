"""Request lines: bytes -> RequestLine, by the strict grammar (RFC 9112 §3). Owns no state."""

from __future__ import annotations

from prefork.errors import BadRequest, NotImplementedHere, ProtocolError, VersionNotSupported
from prefork.http import grammar, paths
from prefork.http.h1.shown import shown
from prefork.http.message import RequestLine

LINE_SHOWN = 2048  # bytes of a refused request line that the access log gets


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
    match = grammar.REQUEST_LINE.fullmatch(raw.decode("latin-1"))
    if match is None:
        raise BadRequest(f"a malformed request line (RFC 9112 §3): {shown(raw)}")
    method, target, major, minor = match.groups()
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
            raise BadRequest(f"a target that is neither a path nor a URL (RFC 9112 §3.2): {shown(target)}")
        authority, origin = absolute.groups()
        if not origin.startswith("/"):
            origin = "/" + origin
    if "#" in origin:
        raise BadRequest("a fragment in the target (RFC 9112 §3.2)")
    path, _, query = origin.partition("?")
    return RequestLine(method, target, paths.decode(path), query, authority, min(int(minor), 1))
