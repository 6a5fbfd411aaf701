"""Messages: what was asked and what is answered. Owns no bytes on the wire, touches no socket.

Text is latin-1 throughout, one character a byte, as PEP 3333 has it: `path.encode("latin-1")` gives the bytes back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence
from functools import lru_cache
from typing import IO, Any, Protocol

from prefork.http import paths
from prefork.http.grammar import REASONS
from prefork.net.stream import Stream

Fields = Sequence[tuple[str, str]]

_NONE: frozenset[str] = frozenset()


class Headers:
    """One validated header block, immutable; `shared` where it is kept for every request that repeats it.

    `pairs` are (lower-case name, value) in order of arrival. What framing and connection handling need is worked out
    once, when the block is parsed: `length` (Content-Length or None), `chunked`, `has_body`, `keep_alive` (None: the
    version's default), `expects_continue`, `host`; and so are `proxy_fields`, the names in it that only a proxy may
    write (proxy_fields.py). `views` holds what others derive from the block, each under a key
    of its own (the WSGI environ, say). `fields` maps each name to its value; repeated ones are joined by comma
    (RFC 9110 §5.3), cookies by semicolon.
    """

    __slots__ = (
        "chunked",
        "expects_continue",
        "fields",
        "has_body",
        "host",
        "keep_alive",
        "length",
        "pairs",
        "prepared",
        "proxy_fields",
        "shared",
    )

    def __init__(self, pairs: Fields) -> None:
        self.pairs = pairs
        self.fields = dict(pairs)
        if len(self.fields) < len(pairs):
            self.fields = _join(pairs)
        self.host: str = ""
        self.length: int | None = None
        self.chunked = False
        self.has_body = False
        self.keep_alive: bool | None = None
        self.expects_continue = False
        self.proxy_fields: frozenset[str] = _NONE
        self.shared = False
        self.prepared: dict[Any, Any] = {}

    def get(self, name: str, default: str = "") -> str:
        """The value of field `name` (lower case), as in `fields`."""
        return self.fields.get(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def without(self, names: Container[str]) -> Headers:
        """A copy without the fields of these names, which say nothing of the connection."""
        return self._copy([pair for pair in self.pairs if pair[0] not in names])

    def saying(self, name: str, value: str) -> Headers:
        """A copy in which the field `name` (lower case), which says nothing of the connection, is this."""
        copy = self._copy([*(pair for pair in self.pairs if pair[0] != name), (name, value)])
        copy.shared = False
        return copy

    def _copy(self, pairs: Fields) -> Headers:
        copy = Headers(tuple(pairs))
        copy.host, copy.shared = self.host, self.shared
        copy.length, copy.chunked, copy.has_body = self.length, self.chunked, self.has_body
        copy.keep_alive, copy.expects_continue = self.keep_alive, self.expects_continue
        return copy


def _join(pairs: Fields) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        if name in joined:
            value = f"{joined[name]}{'; ' if name == 'cookie' else ', '}{value}"
        joined[name] = value
    return joined


class RequestLine:
    """A validated request line, immutable and shared like Headers.

    `target` is as received. `path` is the one spelling (see paths.py) that everybody who looks at a path goes by; it
    always starts with "/" (or is "*"). `decoded` differs from it in slashes that came in runs, if at all, and is for
    applications alone. `query` is raw, without the "?"; `version` is "HTTP/1.0" or "HTTP/1.1".
    """

    __slots__ = ("authority", "decoded", "method", "minor", "path", "prepared", "query", "target", "version")

    def __init__(self, method: str, target: str, decoded: str, query: str, authority: str, minor: int) -> None:
        """`decoded` is as `paths.decode` gives it."""
        self.method = method
        self.target = target
        self.decoded = decoded
        self.path = paths.merge(decoded) if "//" in decoded else decoded  # the call would cost 0.1 us
        self.query = query
        self.authority = authority
        self.minor = minor
        self.version = "HTTP/1.1" if minor else "HTTP/1.0"
        self.prepared: dict[Any, Any] = {}

    def below(self, mount: str) -> str:
        """What an application at `mount` ("" or "/prefix"), with which `path` begins, gets: slashes as they came."""
        if self.decoded is self.path:
            return self.path[len(mount) :]
        return paths.below(self.decoded, mount)

    @property
    def origin(self) -> str:
        """The target in origin-form (RFC 9112 §3.2.1): path and query as received."""
        if not self.authority:
            return self.target
        origin = self.target.partition("://")[2][len(self.authority) :]
        return origin if origin.startswith("/") else "/" + origin


class Client:
    """Who asks, and at which door: one a connection. On a unix socket `address` is "" and `port` "0"; `server_name` is
    its path, and `server_port` "". Where the client is not `direct`, since a proxy speaks for it or it came through a
    unix socket, that door is not the one that it knows: see `server`.

    `views` holds what others derive from it, as those of Headers and RequestLine do, once anybody has.
    """

    __slots__ = ("address", "direct", "port", "prepared", "scheme", "server_name", "server_port")

    def __init__(
        self, address: str, port: int, scheme: str, server_name: str, server_port: str, direct: bool = True
    ) -> None:
        self.address = address
        self.port = str(port)  # as CGI and PEP 3333 have it
        self.scheme = scheme
        self.server_name = server_name
        self.server_port = server_port
        self.direct = direct
        self.prepared: dict[Any, Any] | None = None


@lru_cache(1024)
def server(host: str, scheme: str) -> tuple[str, str]:
    """The name and the port of the server that a client which says `host` means; the scheme's port where it says none.

    `host` is as in a Request: "" where an old client says nothing.
    """
    name, port = host, ""
    if ":" in host and not host.endswith("]"):
        name, _, port = host.rpartition(":")
    return name or "localhost", port or ("443" if scheme == "https" else "80")


class RequestBody(Protocol):
    """The request body as a handler sees it; whoever reads first answers `Expect: 100-continue`."""

    @property
    def reusable(self) -> bool:
        """True where the connection can be used after this body, even if nobody reads it."""

    @property
    def ended(self) -> bool:
        """True once the body has been read to its end."""

    def arrived(self) -> bytes:
        """What has arrived and was not read, without waiting for more."""

    async def piece(self) -> bytes:
        """The next piece of the body, as it arrives; b"" at its end."""

    async def spool(self) -> IO[bytes]:
        """The whole body as a file at position 0: in memory, beyond `http.body_buffer` on disk."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, as it arrives."""

    async def discard(self) -> bool:
        """Read what nobody read. False when that is not worth it, and the connection cannot be used again."""

    async def hangup(self) -> None:
        """Wait, once the body has ended, until the client hangs up. What it sends meanwhile is kept for later."""

    @property
    def client_left(self) -> bool:
        """The client has hung up by now, whatever it has sent."""

    def answered(self) -> None:
        """The response's head is about to leave."""


class Request:
    """One request. `line` and `headers` are shared and immutable; the rest is this request's own."""

    __slots__ = ("body", "client", "headers", "line")

    def __init__(self, line: RequestLine, headers: Headers, body: RequestBody, client: Client) -> None:
        self.line = line
        self.headers = headers
        self.body = body
        self.client = client

    @property
    def method(self) -> str:
        return self.line.method

    @property
    def path(self) -> str:
        return self.line.path

    @property
    def query(self) -> str:
        return self.line.query

    @property
    def target(self) -> str:
        return self.line.target

    @property
    def version(self) -> str:
        return self.line.version

    @property
    def host(self) -> str:
        """Whom the client means, port included: an absolute target's authority, else Host (RFC 9112 §3.3)."""
        return self.line.authority or self.headers.host


class FileSegment:
    """A response body: `count` bytes of an open regular file from `offset` on; `close` is called when done."""

    __slots__ = ("close", "count", "file", "offset")

    def __init__(self, file: int, offset: int, count: int, close: Callable[[], None]) -> None:
        self.file = file  # a descriptor
        self.offset = offset
        self.count = count
        self.close = close


class Chunks(Protocol):
    """A response body in pieces. `aclose` is called once, whatever happened, even where nothing was iterated.

    Where it is `prompt`, the head does not wait for the first of them.
    """

    @property
    def prompt(self) -> bool: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Upgrade:
    """The body of a 101 response: what the connection becomes behind the head (RFC 9110 §7.8).

    `protocol` is its name, as the Upgrade field has it. `aclose` is called once, whatever happened.
    """

    __slots__ = ()

    protocol: str

    async def converse(self, stream: Stream) -> None:
        """Own the stream until the conversation is over, after which it is closed.

        What the client has sent already is in `stream.unread`. A peer that leaves is no error.
        """
        raise NotImplementedError

    def drain(self, seconds: float) -> None:
        """The server is leaving: come to an end, so many seconds from now."""
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


Body = bytes | FileSegment | Chunks | Upgrade


class Response:
    """One response. `reason` is "" for the standard phrase; of framing, `headers` may say Content-Length only."""

    __slots__ = ("body", "headers", "reason", "status")

    def __init__(self, status: int, headers: Fields = (), body: Body = b"", reason: str = "") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.reason = reason


GIVEN_UP = Response(503)  # stands where a response stood, and is never sent


class Memo:
    """What the repeated request is answered with, until `until` (monotonic seconds); `head` is `response`'s.

    `hold`, if there is one, is called before the body is sent once more, as the body is closed afterwards. Kept apart
    from the response, so that whoever remembers it keeps no body that was given up.
    """

    __slots__ = ("head", "hold", "response", "until")

    def __init__(self, response: Repeatable, hold: Callable[[], object] | None) -> None:
        self.response: Response = response
        self.hold = hold
        self.head: Any = None
        self.until = 0.0


class Repeatable(Response):
    """A response, of bytes or a file, that is given again, this very object, until `valid` (monotonic seconds).

    Whoever sends the same request, byte for byte, may get it without its handler being asked, or whatever is wrapped
    around that: it must not depend on who asks. A wrapper that answers for some clients only hands out a plain Response
    in its place. `valid` may be moved on; `retire` ends it. `again` is the renderer's and the connection's.
    """

    __slots__ = ("memo", "valid")

    def __init__(
        self,
        status: int,
        headers: Fields,
        body: bytes | FileSegment = b"",
        valid: float = 0.0,
        hold: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(status, headers, body)
        self.valid = valid
        self.memo = Memo(self, hold)

    def retire(self) -> None:
        self.valid = self.memo.until = 0.0
        self.memo.response, self.memo.hold = GIVEN_UP, None


Handler = Callable[[Request], Awaitable[Response]]


class Plain(Response):
    """What the server says by itself, in place of which an operator may have put a page."""

    __slots__ = ()


def plain(status: int, *fields: tuple[str, str]) -> Plain:
    """The small text that goes with a status where there is nothing better to say: "404 Not Found"."""
    text = f"{status} {REASONS.get(status, 'Unknown')}\n"
    return Plain(status, (("Content-Type", "text/plain; charset=utf-8"), *fields), text.encode())
