"""Messages: the request and the response, as handlers see them. Owns no bytes on the wire, touches no socket.

Text is latin-1 throughout, one character a byte, as in PEP 3333: `path.encode("latin-1")` gives the bytes back.
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

    `fields` maps each name (lower case) to its value, in order of arrival; repeated fields are joined by comma
    (RFC 9110 §5.3), cookies by semicolon. The parser sets `proxy_fields`, the names in the block that only a proxy may
    write (proxy_fields.py); a copy has none. `prepared` holds objects that other modules derive from the block (the
    WSGI environ, for example), each under a key of its own.
    """

    __slots__ = ("fields", "prepared", "proxy_fields", "repeated", "shared")

    def __init__(self, fields: dict[str, str], repeated: Fields | None = None) -> None:
        """`repeated` are all the pairs of a block in which a name comes more than once, and None for other blocks."""
        self.fields = fields
        self.repeated = repeated
        self.proxy_fields: frozenset[str] = _NONE
        self.shared = False
        self.prepared: dict[Any, Any] = {}

    @classmethod
    def of(cls, pairs: Fields) -> Headers:
        """Headers of these (lower-case name, value), in order of arrival."""
        fields = dict(pairs)
        return cls(fields) if len(fields) == len(pairs) else cls(_join(pairs), pairs)

    @property
    def pairs(self) -> Fields:
        """(lower-case name, value) of each field line, in order of arrival."""
        return tuple(self.fields.items()) if self.repeated is None else self.repeated

    def get(self, name: str, default: str = "") -> str:
        """The value of field `name` (lower case), as in `fields`."""
        return self.fields.get(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def without(self, names: Container[str]) -> Headers:
        """A copy without the fields of these `names`, `shared` like this one."""
        if self.repeated is None:
            copy = Headers({name: value for name, value in self.fields.items() if name not in names})
        else:
            copy = Headers.of(tuple(pair for pair in self.repeated if pair[0] not in names))
        copy.shared = self.shared
        return copy

    def saying(self, name: str, value: str) -> Headers:
        """A copy in which field `name` (lower case) has this `value` alone."""
        return Headers.of((*(pair for pair in self.pairs if pair[0] != name), (name, value)))


def _join(pairs: Fields) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in pairs:
        if name in joined:
            value = f"{joined[name]}{'; ' if name == 'cookie' else ', '}{value}"
        joined[name] = value
    return joined


class RequestLine:
    """A validated request line, immutable and shared like Headers.

    `target` is as received. `path` is the one spelling (see paths.py) by which all code decides; it starts with "/", or
    is "*". `decoded` is the same path with its runs of slashes as they came, for applications alone. `query` is raw,
    without the "?". `authority` is that of an absolute target, else "". `minor` is 0 or 1, and `version` is "HTTP/1.0"
    or "HTTP/1.1". `prepared` is as in Headers.

    A line that stands for an unreadable one (h1/parse.py) has the path "-", and the version "" where none is known.
    """

    __slots__ = ("authority", "decoded", "method", "minor", "path", "prepared", "query", "target", "version")

    def __init__(self, method: str, target: str, decoded: str, query: str, authority: str, minor: int) -> None:
        """`decoded` is the result of `paths.decode`."""
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
        """The path for an application at `mount` ("" or "/prefix"), with which `path` begins: slashes as they came."""
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
    """A client's address, and the address of ours that it is connected to. A connection has one, and each request that
    a trusted proxy passes on has one of its own.

    On a unix socket `address` is "" and `port` is "0"; `server_name` is the socket's path, and `server_port` is "". A
    client is not `direct` where a proxy speaks for it, or where it came through a unix socket. It then knows the server
    by another name and port than these: see `server`.

    `prepared` is as in Headers, but None until an object is put there.
    """

    __slots__ = ("address", "direct", "port", "prepared", "scheme", "server_name", "server_port")

    def __init__(
        self, address: str, port: int, scheme: str, server_name: str, server_port: str, direct: bool = True
    ) -> None:
        self.address = address
        self.port = str(port)  # a string, as in CGI and PEP 3333
        self.scheme = scheme
        self.server_name = server_name
        self.server_port = server_port
        self.direct = direct
        self.prepared: dict[Any, Any] | None = None


@lru_cache(1024)
def server(host: str, scheme: str) -> tuple[str, str]:
    """The server's name and port, from the `host` that a client asks for. Without a port in it, that of the `scheme`.

    `host` is a Request's: "" where an HTTP/1.0 client names none, which gives "localhost".
    """
    name, port = host, ""
    if ":" in host and not host.endswith("]"):
        name, _, port = host.rpartition(":")
    return name or "localhost", port or ("443" if scheme == "https" else "80")


class RequestBody(Protocol):
    """The request body for a handler. The first read that waits for the client answers `Expect: 100-continue`."""

    @property
    def size(self) -> int | None:
        """The bytes of the body; 0 where the request has none, and None where its end will tell."""

    @property
    def reusable(self) -> bool:
        """True where, as far as is known, the connection can be used after this body, even if nobody reads it."""

    @property
    def ended(self) -> bool:
        """True once the body has been read to its end."""

    def arrived(self) -> bytes:
        """The bytes of the body that have arrived and were not read. Does not wait for more."""

    async def piece(self) -> bytes:
        """The next piece of the body, as it arrives; b"" at its end."""

    async def spool(self) -> IO[bytes]:
        """The rest of the body as a file at position 0: in memory up to `http.body_buffer`, on disk beyond that."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the body, piece by piece, as it arrives."""

    async def discard(self) -> bool:
        """Read the rest and drop it. False where it is too much for that, and the connection cannot be used again."""

    async def hangup(self) -> None:
        """Wait, once the body has ended, until the client hangs up. The bytes that it sends meanwhile are kept."""

    @property
    def client_left(self) -> bool:
        """True once the client has hung up, even if bytes that it sent before were not read."""

    def answered(self) -> None:
        """Note that the response's head is about to be sent: no 100 Continue may follow."""


class Request:
    """One request. `line` and `headers` are immutable and may be shared with other requests that repeat them."""

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
        """The host that the client asks for, with its port: an absolute target's, else that of Host (RFC 9112 §3.3)."""
        return self.line.authority or self.headers.fields.get("host", "")


class FileSegment:
    """A response body: `count` bytes of an open regular file from `offset` on. `close` is called at its end."""

    __slots__ = ("close", "count", "file", "offset")

    def __init__(self, file: int, offset: int, count: int, close: Callable[[], None]) -> None:
        self.file = file  # a descriptor
        self.offset = offset
        self.count = count
        self.close = close


class Chunks(Protocol):
    """A response body in pieces. `aclose` is called once, whatever happened, even where nothing was iterated.

    Where it is `prompt`, the head is sent without waiting for the first piece. After the last piece, `trailers` are the
    fields of the trailer section (RFC 9110 §6.5). A connection that cannot send one drops them.
    """

    @property
    def prompt(self) -> bool: ...

    @property
    def trailers(self) -> Fields: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Upgrade:
    """The body of a 101 response: the protocol that the connection speaks behind the head (RFC 9110 §7.8).

    `protocol` is its name in the Upgrade field. `aclose` is called once, whatever happened.
    """

    __slots__ = ()

    protocol: str

    async def converse(self, stream: Stream) -> None:
        """Own the stream until the conversation is over, after which the connection closes it.

        Bytes that the client has sent already are in `stream.unread`. A peer that leaves is no error.
        """
        raise NotImplementedError

    def drain(self, seconds: float) -> None:
        """End the conversation `seconds` from now, as the server is leaving."""
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


Body = bytes | FileSegment | Chunks | Upgrade


class Response:
    """One response. `reason` is "" for the standard phrase. Of the fields that frame a body, `headers` may have only
    Content-Length: the renderer drops the others.
    """

    __slots__ = ("body", "headers", "reason", "status")

    def __init__(self, status: int, headers: Fields = (), body: Body = b"", reason: str = "") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.reason = reason


GIVEN_UP = Response(503)  # takes the place of a retired response, and is never sent


class Memo:
    """The answer to a repeated request until `until` (monotonic seconds): a `response` with its rendered `head`.

    `hold`, if there is one, is called each time before the body is sent again, since the body is closed after each. The
    memo is an object apart from its response: a cache that keeps the memo does not keep the body of a retired response.
    """

    __slots__ = ("head", "hold", "response", "until")

    def __init__(self, response: Repeatable, hold: Callable[[], object] | None) -> None:
        self.response: Response = response
        self.hold = hold
        self.head: Any = None
        self.until = 0.0


class Repeatable(Response):
    """A response, of bytes or a file, that may be sent again, this very object, until `valid` (monotonic seconds).

    Where all wrappers of a route are pure (handlers/build.py), a client that sends the same request to the same
    listener, byte for byte, may get it without a call of the handler. So the response must not depend on the client.
    `valid` may be moved to a later time; `retire` ends it. `memo` is for the renderer and the connection.
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
    """A response of the server's own, which the operator's error page may replace."""

    __slots__ = ()


def plain(status: int, *fields: tuple[str, str]) -> Plain:
    """A response whose body is its status as a short text, "404 Not Found", with further header `fields`."""
    text = f"{status} {REASONS.get(status, 'Unknown')}\n"
    return Plain(status, (("Content-Type", "text/plain; charset=utf-8"), *fields), text.encode())
