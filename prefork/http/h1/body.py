"""Request bodies: by length or chunked (RFC 9112 §6, §7), read on demand. Owns the decoders and the spooling.

The decoders are plain state machines over bytes; Incoming pulls bytes through one of them.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import Enum, auto
from time import monotonic
from typing import IO, Protocol

from prefork.errors import BadRequest, BodyTooLarge, Disconnected, HeadTooLarge, RequestTimeout, TimedOut
from prefork.http.body_limit import BodyLimit
from prefork.http.grammar import CHUNK_LINE, FIELD_LINE
from prefork.http.h1.fields import Framing
from prefork.http.message import Request
from prefork.http.spool import explained, spool_file
from prefork.net.stream import Stream
from prefork.runtime.task import PAUSE
from prefork.settings.schema import Http

LINE_LIMIT = 1024  # bytes of a trailer field, or of a chunk's size line with its extensions, which nobody sends
TRAILER_LIMIT = 16 * 1024
# bytes of framing that a chunk may have, beside two for each byte of its data: the same bound as in Go's net/http
CHUNK_FRAMING = 16
FRAMING_LIMIT = 16 * 1024  # bytes of framing beyond that, for all chunks of a body: extensions
CHUNKS = 1024  # decoded at a time, which takes 2 ms: a read may hold ten times as many of one byte each
DISCARD = 256 * 1024  # bytes of an unread body that are read and dropped to keep its connection
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Decoder(Protocol):
    """`feed` takes bytes that have arrived, and returns the part of the body in them.

    Once the decoder is `done`, `rest` has the bytes behind the body. It is `held` where more chunks have arrived than
    it decodes at a time. Then it must be fed with b"" when other tasks have had a turn.
    """

    done: bool
    held: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


class LengthDecoder:
    """A body of `length` bytes, more than 0."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = self.held = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        piece = data[: self.left]
        self.left -= len(piece)
        if not self.left:
            self.done = True
            self.rest = data[len(piece) :]
        return piece


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedDecoder:
    """A chunked body of at most `max_body` bytes (0: any number). Extensions and trailers are checked, and dropped.

    `total` is the size of all chunks so far, with the whole of the one that is being read.
    """

    def __init__(self, max_body: int) -> None:
        self.max_body = max_body
        self.done = self.held = False
        self.rest = b""
        self._part = _Part.SIZE
        self._left = 0  # of the chunk that is being read
        self.total = 0
        self._trailer = 0
        self._excess = 0  # bytes of framing beyond those that the chunks so far may have

    def feed(self, data: bytes) -> bytes:
        """Decode `data`. Raises BadRequest, BodyTooLarge, HeadTooLarge (trailers)."""
        data = self.rest + data  # `rest` is at most a line, or the held part of one read
        at = 0
        pieces = []
        left = CHUNKS
        self.held = False
        while not self.done:
            if self._part is _Part.DATA:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._part = _Part.DATA_END
                continue
            end = data.find(b"\r\n", at)
            if (end if end >= 0 else len(data) - 1) - at > LINE_LIMIT:  # the last byte may be the CR
                raise BadRequest("a chunk's line beyond its bound (RFC 9112 §7.1)")
            if end < 0:
                break
            if self._part is _Part.SIZE:
                if not left:
                    self.held = True
                    break
                left -= 1
            self._line(data[at:end])
            at = end + 2
        self.rest = data[at:]
        return b"".join(pieces)

    def _line(self, line: bytes) -> None:
        if self._part is _Part.SIZE:
            match = CHUNK_LINE.fullmatch(line)
            if match is None:
                raise BadRequest("a malformed chunk size (RFC 9112 §7.1)")
            self._left = int(match[1], 16)
            self.total += self._left
            self._excess = max(0, self._excess + len(line) + 4 - CHUNK_FRAMING - 2 * self._left)
            if self._excess > FRAMING_LIMIT:
                raise BadRequest("more chunk extensions than a body may have")
            if self.max_body and self.total > self.max_body:
                raise BodyTooLarge(f"a body of {self.total} bytes or more")
            self._part = _Part.DATA if self._left else _Part.TRAILER
        elif self._part is _Part.DATA_END:
            if line:
                raise BadRequest("a chunk that does not end where its size says (RFC 9112 §7.1)")
            self._part = _Part.SIZE
        elif line:
            self._trailer += len(line)
            if self._trailer > TRAILER_LIMIT:
                raise HeadTooLarge("a trailer section beyond its bound")
            if not FIELD_LINE.fullmatch(line):
                raise BadRequest("a malformed trailer field (RFC 9112 §7.1.2)")
        else:
            self.done = True


class Incoming:
    """A RequestBody: the body of one request, as it arrives from `stream`."""

    __slots__ = (
        "_awaited",
        "_buffer",
        "_decoder",
        "_limit",
        "_line",
        "_pace",
        "_silent",
        "_stream",
        "_timeout",
        "size",
    )

    def __init__(self, stream: Stream, request: Request, framing: Framing, http: Http, limit: BodyLimit) -> None:
        """Bodies above `http.body_buffer` bytes are spooled to disk. A read may take `http.body_timeout` seconds.

        Raises BodyTooLarge where the request's Content-Length is beyond `limit`.
        """
        self.size = framing.length
        if framing.length is None:
            self._decoder: Decoder = ChunkedDecoder(limit.most)
        elif limit.most and framing.length > limit.most:
            raise limit.refuse(request.line, framing.length)
        else:
            self._decoder = LengthDecoder(framing.length)
        self._limit = limit
        self._line = request.line
        self._stream = stream
        self._buffer = http.body_buffer
        self._timeout = http.body_timeout
        self._pace = stream.pace(http.min_receive_rate, http.body_timeout)
        # the client holds it back until we ask (RFC 9110 §10.1.1); HTTP/1.0 has no way of asking
        self._awaited = framing.expects_continue and request.line.minor == 1
        self._silent = False

    @property
    def ended(self) -> bool:
        return self._decoder.done

    def arrived(self) -> bytes:
        """The bytes that have arrived and were not read, b"" while others must have a turn. Raises ProtocolError."""
        if self._decoder.held:
            return b""
        data, self._stream.unread = self._stream.unread, b""
        return self._feed(data) if data else b""

    async def piece(self) -> bytes:
        """The next piece of the body; b"" at its end. Raises ProtocolError, Disconnected."""
        piece = self.arrived()
        while not piece and not self._decoder.done:
            piece = self._feed(await self._receive())
        return piece

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the body, piece by piece. Raises ProtocolError, Disconnected."""
        while piece := await self.piece():
            yield piece

    async def hangup(self) -> None:
        """Wait until the client hangs up. To be called once the body has ended."""
        await self._stream.hangup()

    @property
    def client_left(self) -> bool:
        return self._stream.has_left

    def answered(self) -> None:
        """Note that the response has begun, and no 100 Continue may follow (RFC 9110 §15.2)."""
        self._silent = True

    def _feed(self, data: bytes) -> bytes:
        decoder = self._decoder
        try:
            piece = decoder.feed(data)
        except BodyTooLarge:
            assert isinstance(decoder, ChunkedDecoder)
            raise self._limit.refuse(self._line, decoder.total) from None
        if decoder.done:
            self._stream.unread, decoder.rest = decoder.rest, b""
        return piece

    async def spool(self) -> IO[bytes]:
        """The rest of the body as a file at position 0: in memory up to `http.body_buffer` bytes, on disk beyond that.

        Raises ProtocolError, Disconnected; OSError where the disk is full, or there is no directory for the file.
        """
        file: IO[bytes] = io.BytesIO()
        try:
            async for piece in self.chunks():
                if isinstance(file, io.BytesIO) and file.tell() + len(piece) > self._buffer:
                    memory, file = file, spool_file()
                    file.write(memory.getbuffer())
                file.write(piece)
            file.seek(0)
        except BaseException as error:
            with suppress(OSError):  # `close` writes its buffer, which may fail
                file.close()
            if isinstance(error, OSError) and not isinstance(file, io.BytesIO):
                raise explained(error) from error
            raise
        return file

    @property
    def reusable(self) -> bool:
        """False where the client may be waiting for a 100 Continue, or where too much of the body is left.

        More than DISCARD bytes are too much, where the length is known.
        """
        decoder = self._decoder
        if decoder.done:
            return True
        return not self._awaited and not (isinstance(decoder, LengthDecoder) and decoder.left > DISCARD)

    async def discard(self) -> bool:
        """Read the rest and drop it. False where it is more than DISCARD bytes, or may not come.

        Then the connection cannot be used again. Raises ProtocolError, Disconnected.
        """
        if not self.reusable:
            return False
        left = DISCARD
        async for piece in self.chunks():
            left -= len(piece)
            if left < 0:
                return False
        return True

    async def _receive(self) -> bytes:
        """The next bytes from the client; b"" where the decoder still holds some, once the other tasks have had a turn.

        Sends 100 Continue first, where the client waits for it. Raises RequestTimeout, Disconnected.
        """
        if self._decoder.held:
            await PAUSE
            return b""
        try:
            if self._awaited and not self._silent:
                self._awaited = False
                await self._stream.write(CONTINUE, self._timeout)
                self._stream.sent = 0  # the 100 is no part of the answer
            began = monotonic()
            data = await self._stream.read(self._pace.patience)
        except TimedOut:
            raise RequestTimeout(f"too little of the body, or no more of it for {self._timeout:g} s") from None
        if not data:
            raise Disconnected("the client left in mid-body")
        self._awaited = False
        self._pace.waited(monotonic() - began)
        self._pace.moved(len(data))
        return data


class Nothing:
    """A RequestBody for requests without one. All such requests of a connection share it."""

    __slots__ = ("_stream",)

    size = 0
    ended = True
    reusable = True

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def arrived(self) -> bytes:
        return b""

    async def piece(self) -> bytes:
        return b""

    async def chunks(self) -> AsyncIterator[bytes]:
        return
        yield b""

    async def spool(self) -> IO[bytes]:
        return io.BytesIO()

    async def discard(self) -> bool:
        return True

    async def hangup(self) -> None:
        await self._stream.hangup()

    @property
    def client_left(self) -> bool:
        return self._stream.has_left

    def answered(self) -> None:
        pass
