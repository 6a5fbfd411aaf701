"""Compression: encodes the responses of any handler on the fly. Owns the rule that says which ones may be encoded.

An encoded response is another representation: it has an ETag of its own, by which it is recognized in If-None-Match,
and no ranges. Vary tells caches that there are several representations, in each of them. A response stays unencoded if
it is encoded already, is a part (206), has no body, names a digest of its content, or says `no-transform`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial

from prefork.handlers.encode.encoded_body import SLICE, flowing, whole
from prefork.handlers.encode.encodings import PACKAGES, Encoding, choose, gzip
from prefork.http.conditional import encoded_tag, names, unencoded_tags
from prefork.http.exchange import release
from prefork.http.grammar import DIGITS
from prefork.http.message import Body, Fields, FileSegment, Handler, Headers, Repeatable, Request, Response, Upgrade
from prefork.http.negotiation import IDENTITY, best
from prefork.http.paths import LONGEST_REMEMBERED
from prefork.settings import schema

STREAMS = 64  # bodies that are encoded piece by piece at once: 3 MiB each by zstd at level 4, and 11 at level 9
# Further ones, by gzip with 48 KiB each. Beyond these, bodies stay unencoded, so that slow clients take no more memory.
LEAN_STREAMS = 1024
# glibc returns free memory at the end of its heap to the system, from 128 KiB on. Once a larger block has been freed,
# it does so from twice that block's size on (mallopt(3), M_MMAP_THRESHOLD). So to encode 100 KiB of HTML, which makes
# and frees an encoder, takes 62 page faults less, and a tenth less time.
HEAP = 1024 * 1024
KEPT = 1024 * 1024  # bytes of the largest file that is kept encoded
ENTRY = 2048  # bytes, about, that a kept response takes besides its body and its path: its fields, twice

_EVENTS = "text/event-stream"
_PARTS = "multipart/byteranges"  # the parts may be of any media type
_UNTOUCHED = frozenset((204, 205))
_TELLING = frozenset(("content-encoding", "content-range", "content-digest", "repr-digest", "digest", "content-md5"))
_DROPPED = frozenset(("content-length", "accept-ranges"))
_ACCEPTED = re.compile(r"(?:^|,)\s*(?:\*|accept-encoding)\s*(?:,|$)", re.IGNORECASE)

Key = tuple[Handler, str, str, int, Fields]  # handler, path, encoding; status and fields of the unencoded response


class Compression:
    """Encodes the responses of any number of handlers by the same settings; `kept` is one cache for all of them.

    At most `streams` bodies are encoded piece by piece at once, and `lean_streams` further ones with little memory.
    """

    def __init__(
        self, settings: schema.Compression, *, streams: int = STREAMS, lean_streams: int = LEAN_STREAMS
    ) -> None:
        bytes(HEAP)  # a block that is freed at once: see HEAP
        names = tuple(PACKAGES) if settings.codings == "auto" else settings.codings
        self._codings = _Offer({encoding.name: encoding for encoding in choose(names, settings.level)})
        # For streams of events, which may go on for hours, and for large bodies once there are `streams`.
        self._lean = _Offer({"gzip": gzip(settings.level, window=12, memory=6)} if "gzip" in names else {})
        self._streams, self._lean_streams = streams, lean_streams
        self._min_size = settings.min_size
        self.kept = EncodedCache(settings.cache)
        types = "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in settings.types)
        self._is_wanted = lru_cache(256)(re.compile(types).fullmatch)

    def around(self, handler: Handler, keeps: bool) -> Handler:
        """`handler` with its responses encoded.

        With `keeps`, an encoded body is kept, and given again to any client while the path, the status and the fields,
        a strong ETag among them, are the same. That is right for files, but not for every application.
        """

        async def handle(request: Request) -> Response:
            encoding, asked = self._codings.choice(request), request.headers
            if "if-none-match" in asked.fields:
                request.headers = _of_unencoded(asked, encoding)
            try:
                response = await handler(request)
            finally:
                request.headers = asked
            if response.status == 304:
                return _unchanged(asked.get("if-none-match"), response, encoding)
            if not keeps:
                return self._respond(request, response, None)
            key = (handler, request.path, encoding, response.status, tuple(response.headers))
            kept = self.kept.get(key)
            if kept is None:
                return self._respond(request, response, key)
            kept.valid = response.valid if isinstance(response, Repeatable) else 0.0
            await release(response.body)
            return kept

        return handle

    def _respond(self, request: Request, response: Response, key: Key | None) -> Response:
        """`response`, encoded where it may be. The encoded body is kept under `key`, if there is one and the body may
        be kept.
        """
        if response.status == 206:
            return self._part(response)
        facts = self._judge(request, response)
        if facts is None:
            return response
        offer = self._offer(facts)
        encoding = offer.chosen(request)
        status, reason, varied = response.status, response.reason, _varied(response.headers)
        if encoding is None:
            return Response(status, varied, response.body, reason)
        fields, body = _encoded(varied, encoding.name), _taken(response.body)
        if request.method == "HEAD" and not (isinstance(body, bytes) and 0 < len(body) <= SLICE):  # else as to GET
            if facts.size is None and isinstance(body, bytes):  # the size of the body that GET would get is not known
                return Response(status, varied, body, reason)
            return Response(status, fields, _silent(body), reason)
        keep = None
        if key and offer is self._codings and status == 200 and facts.strong and facts.size and facts.size <= KEPT:
            keep = partial(self.kept.put, key, fields)
        encoded = offer.code(body, encoding, facts.length, keep)
        if encoded is not body:
            return Response(status, fields, encoded, reason)
        if key and keep is not None and isinstance(body, bytes):
            self.kept.put(key, varied, body)  # unencoded, as it did not get smaller: it is not tried again
        return Response(status, varied, body, reason)

    def _offer(self, facts: _Facts) -> _Offer:
        if facts.kind != _EVENTS and not (facts.is_large and self._codings.streams >= self._streams):
            return self._codings
        return self._lean if self._lean.streams < self._lean_streams else _NOTHING

    def _part(self, response: Response) -> Response:
        """A 206 with the same Vary as its whole representation would have (RFC 9110 §15.3.7)."""
        kind = _kind(response.headers)
        if kind != _PARTS and not self._is_wanted(kind):
            return response
        return Response(206, _varied(response.headers), response.body, response.reason)

    def _judge(self, request: Request, response: Response) -> _Facts | None:
        """The facts by which the response is encoded; None where it stays as it is."""
        body = response.body
        if response.status in _UNTOUCHED or isinstance(body, Upgrade):
            return None
        facts = _read(response.headers)
        if facts is None or not self._is_wanted(facts.kind):
            return None
        if isinstance(body, FileSegment):
            facts.size = body.count
        elif isinstance(body, bytes) and (body or request.method != "HEAD"):
            facts.size = len(body)
        facts.is_large = not isinstance(body, bytes | FileSegment) or (facts.size or 0) > SLICE
        if facts.size is not None and facts.size < self._min_size:
            return None
        return facts if facts.length in (None, facts.size) else None  # a wrong Content-Length is for render to report


class _Offer:
    """Encodings to choose from, the preferred one first. `streams` is the number of bodies that are being encoded by
    them, piece by piece.
    """

    def __init__(self, encodings: Mapping[str, Encoding]) -> None:
        self.streams = 0
        self._codings = encodings
        self._names = tuple(encodings)

    def choice(self, request: Request) -> str:
        """The name of the encoding that the client prefers; IDENTITY also where it accepts none, not even that."""
        return best(request.headers.get("accept-encoding"), self._names) or IDENTITY

    def chosen(self, request: Request) -> Encoding | None:
        return self._codings.get(self.choice(request))

    def code(self, body: Body, encoding: Encoding, length: int | None, keep: Callable[[bytes], None] | None) -> Body:
        """The body, encoded; `body` itself if it is small and would not get smaller. `keep`, if there is one, is called
        with the whole encoded body.
        """
        if isinstance(body, bytes) and len(body) <= SLICE:
            content = encoding.whole(body)  # a quarter faster than by slices, each of which finds the CPU caches cold
            if len(content) >= len(body):
                return body
            if keep is not None:
                keep(content)
            return content
        assert not isinstance(body, Upgrade)
        self.streams += 1
        if isinstance(body, bytes | FileSegment):
            return whole(body, encoding, self._end, keep)
        return flowing(body, encoding, self._end, length)

    def _end(self) -> None:
        self.streams -= 1


_NOTHING = _Offer({})


class EncodedCache:
    """Keeps encoded responses. `size` is about how many bytes they and their keys take, at most `limit`. The response
    that has not been used for the longest time makes room. Nothing is kept for a path longer than LONGEST_REMEMBERED.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._responses: dict[Key, Repeatable] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, key: Key) -> Repeatable | None:
        response = self._responses.pop(key, None)
        if response is not None:
            self._responses[key] = response
        return response

    def put(self, key: Key, fields: Fields, content: bytes) -> None:
        size = _cost(key, content)
        if size > self._limit or len(key[1]) > LONGEST_REMEMBERED or key in self._responses:
            return
        while self.size + size > self._limit:
            oldest = next(iter(self._responses))
            response = self._responses.pop(oldest)
            self.size -= _cost(oldest, response.body)
            response.retire()
        self._responses[key] = Repeatable(key[3], fields, content)
        self.size += size


def _cost(key: Key, content: Body) -> int:
    assert isinstance(content, bytes)
    return ENTRY + len(key[1]) + len(content)


@dataclass
class _Facts:
    """The facts of a response that decide how it is encoded.

    `kind` is its media type, in lower case; `length` its Content-Length, or None; `size` the bytes that its body has,
    or would have as an answer to GET, None if unknown; `strong` tells whether it has a strong ETag. A body that
    `is_large` is encoded piece by piece, not at once.
    """

    kind: str
    length: int | None
    size: int | None
    strong: bool
    is_large: bool = False


def _read(fields: Fields) -> _Facts | None:
    """The facts that the fields tell; None where the response must stay as it is. Errors in the fields are reported by
    render.
    """
    length, strong = None, False
    try:
        for name, value in fields:
            name = name.lower()
            if name in _TELLING or (name == "cache-control" and "no-transform" in value.lower()):
                return None
            if name == "content-length":
                length = int(value) if DIGITS.fullmatch(value) else None
            elif name == "etag":
                strong = value.startswith('"')
        kind = _kind(fields)
    except (TypeError, ValueError, AttributeError):
        return None
    return _Facts(kind, length, length, strong) if kind else None


def _kind(fields: Fields) -> str:
    """The media type in Content-Type, in lower case; "" if there is no such field."""
    return next(
        (value.partition(";")[0].strip().lower() for name, value in fields if name.lower() == "content-type"), ""
    )


def _varied(fields: Fields) -> Fields:
    """The fields with Accept-Encoding added to Vary, unless it is there already (RFC 9110 §12.5.5)."""
    varied, is_said = [], False
    for name, value in fields:
        if not is_said and name.lower() == "vary":
            is_said = True
            value = value if _ACCEPTED.search(value) else f"{value}, Accept-Encoding"
        varied.append((name, value))
    return tuple(varied) if is_said else (*varied, ("Vary", "Accept-Encoding"))


def _encoded(fields: Fields, encoding: str) -> Fields:
    kept = [field for field in _tagged(fields, encoding) if field[0].lower() not in _DROPPED]
    return (*kept, ("Content-Encoding", encoding))


def _tagged(fields: Fields, encoding: str) -> Fields:
    """The fields with the ETag of the encoded representation in the place of the unencoded one's."""
    return tuple((name, encoded_tag(value, encoding) if name.lower() == "etag" else value) for name, value in fields)


def _of_unencoded(asked: Headers, encoding: str) -> Headers:
    """`asked`, with the handler's own ETags added to If-None-Match, for each tag there that is the one encoded by
    `encoding`. Tags of other encodings are not translated, as this client would not get those representations.
    """
    known = asked.get("if-none-match")
    tags = unencoded_tags(known, encoding)
    return asked.saying("if-none-match", f"{tags}, {known}") if tags else asked


def _unchanged(known: str, response: Response, encoding: str) -> Response:
    """A 304 with the fields that a 200 would have (RFC 9110 §15.4.5): those of the encoded response, if the client has
    that. A 304 does not tell whether the 200 would be encoded, so Vary always names Accept-Encoding.
    """
    fields = _varied(response.headers)
    tags = [value for name, value in fields if name.lower() == "etag"]
    if known != "*" and any(names(known, encoded_tag(tag, encoding), strongly=False) for tag in tags):
        fields = _tagged(fields, encoding)
    if isinstance(response, Repeatable):
        return Repeatable(304, fields, b"", response.valid)
    return Response(304, fields, response.body, response.reason)


def _taken(body: Body) -> Body:
    """The bytes of a small file, which is closed. Any other body is returned as it is. So is a file that cannot be read
    in full: it must fail later, as it would without compression.
    """
    if isinstance(body, FileSegment) and body.count <= SLICE:
        with suppress(OSError):
            data = os.pread(body.file, body.count, body.offset)
            if len(data) == body.count:
                body.close()
                return data
    return body


def _silent(body: Body) -> Body:
    """The body of a response to HEAD: one whose length is not known, as the length of the encoded body is not."""
    if isinstance(body, FileSegment):
        body.close()
    return b"" if isinstance(body, bytes | FileSegment) else body
