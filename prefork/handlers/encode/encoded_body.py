"""Encoded bodies on their way: Chunks that code what a body was, slice by slice, so that others have their turn
between.

Empty pieces are handed on, too: it is after each piece that its sender makes a pause (http/h1/send.py).
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from prefork.errors import ApplicationError, CutShort
from prefork.handlers.encode.encodings import Encoding
from prefork.http.exchange import release
from prefork.http.message import Chunks, FileSegment

SLICE = 128 * 1024  # bytes encoded at a stretch: 1.2 ms by gzip at level 4, 6 ms at level 9


class EncodedBody:
    """The Chunks that `pieces` makes of `body`, which it closes; `ended` is called then."""

    def __init__(
        self, body: bytes | FileSegment | Chunks, pieces: AsyncGenerator[bytes, None], ended: Callable[[], None]
    ) -> None:
        self._body = body
        self._pieces = pieces
        self._ended = ended

    @property
    def prompt(self) -> bool:
        return not isinstance(self._body, bytes | FileSegment) and self._body.prompt

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        self._ended()
        await self._pieces.aclose()
        await release(self._body)


def whole(
    body: bytes | FileSegment, encoding: Encoding, ended: Callable[[], None], keep: Callable[[bytes], None] | None
) -> EncodedBody:
    """A body that is there. `keep` is called with all of it, encoded, once that has been made."""
    return EncodedBody(body, _code_whole(body, encoding, keep), ended)


def flowing(body: Chunks, encoding: Encoding, ended: Callable[[], None], length: int | None) -> EncodedBody:
    """A body that comes in pieces. Each leaves as it comes, flushed, since nobody knows when there will be another, and
    before the next is asked for: so the client's pace is still its maker's.

    `length` is what the head would have said of it, or None. Where that is not true the response ends by
    ApplicationError, as it would have ended unencoded.
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
    """`data`, which is not empty, in slices; a single one is `data` itself."""
    return (data[at : at + SLICE] for at in range(0, len(data), SLICE))


def _read(segment: FileSegment) -> Iterator[bytes]:
    """The bytes of a file in slices. Raises OSError, and CutShort where there are fewer than there were."""
    at, end = segment.offset, segment.offset + segment.count
    while at < end:
        data = os.pread(segment.file, min(SLICE, end - at), at)
        if not data:
            raise CutShort
        at += len(data)
        yield data
