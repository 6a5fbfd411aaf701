"""Encoded bodies: Chunks that encode another body slice by slice, so that other tasks may run between two slices.

Empty pieces are passed on, too: the sender makes a pause after each piece (http/h1/send.py).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from prefork.errors import ApplicationError, CutShort
from prefork.handlers.encode.encodings import Encoding
from prefork.http.exchange import release
from prefork.http.message import Chunks, Fields, FileSegment

SLICE = 128 * 1024  # bytes encoded at a stretch: 1.2 ms by gzip at level 4, 6 ms at level 9


class EncodedBody:
    """The Chunks that `pieces` makes of `body`. `aclose` calls `ended`, and closes `body`."""

    def __init__(
        self, body: bytes | FileSegment | Chunks, pieces: AsyncGenerator[bytes, None], ended: Callable[[], None]
    ) -> None:
        self._body = body
        self._pieces = pieces
        self._ended = ended

    @property
    def prompt(self) -> bool:
        return not isinstance(self._body, bytes | FileSegment) and self._body.prompt

    @property
    def trailers(self) -> Fields:
        return () if isinstance(self._body, bytes | FileSegment) else self._body.trailers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        self._ended()
        await self._pieces.aclose()
        await release(self._body)


def whole(
    body: bytes | FileSegment, encoding: Encoding, ended: Callable[[], None], keep: Callable[[bytes], None] | None
) -> EncodedBody:
    """The encoding of a body that is complete. `keep`, if there is one, is called with all of it once it is encoded."""
    return EncodedBody(body, _code_whole(body, encoding, keep), ended)


def flowing(body: Chunks, encoding: Encoding, ended: Callable[[], None], length: int | None) -> EncodedBody:
    """The encoding of a body that comes in pieces.

    The encoder is flushed after each piece, since the next may take long. Each piece is sent before the next is asked
    for: so the maker of the body still goes at the client's pace.

    `length` is the Content-Length of the unencoded body, or None. If the body has another length, the response ends by
    ApplicationError, as it would unencoded.
    """
    return EncodedBody(body, _code_flowing(body, encoding, length), ended)


async def _code_whole(
    body: bytes | FileSegment, encoding: Encoding, keep: Callable[[bytes], None] | None
) -> AsyncGenerator[bytes, None]:
    encoder = encoding.encoder()
    made: list[bytes] = []
    for data in _read(body) if isinstance(body, FileSegment) else _cut(body):
        piece = encoder.add(data)
        if keep is not None:
            made.append(piece)
        yield piece
    piece = encoder.finish()
    if keep is not None:
        keep(b"".join((*made, piece)))
    yield piece


async def _code_flowing(body: Chunks, encoding: Encoding, length: int | None) -> AsyncGenerator[bytes, None]:
    encoder = encoding.encoder()
    count = 0
    async for piece in body:
        if not piece:
            continue
        count += len(piece)
        if length is not None and count > length:
            raise ApplicationError(f"the body is longer than its Content-Length of {length}")
        *slices, last = _cut(piece)
        for data in slices:
            yield encoder.add(data)
        yield encoder.add(last) + encoder.flush()
    if length is not None and count < length:
        raise ApplicationError(f"the body is {length - count} bytes shorter than its Content-Length of {length}")
    yield encoder.finish()


def _cut(data: bytes) -> Iterator[bytes]:
    """`data`, which must not be empty, in slices of SLICE bytes. A single slice is `data` itself, not a copy."""
    return (data[at : at + SLICE] for at in range(0, len(data), SLICE))


def _read(segment: FileSegment) -> Iterator[bytes]:
    """The bytes of a file in slices. Raises OSError, and CutShort if the file has become shorter than `segment`."""
    at, end = segment.offset, segment.offset + segment.count
    while at < end:
        data = os.pread(segment.file, min(SLICE, end - at), at)
        if not data:
            raise CutShort
        at += len(data)
        yield data
