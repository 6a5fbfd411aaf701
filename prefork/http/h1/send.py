"""Sending of response bodies other than bytes: files, pieces and upgrades. Owns no stream and no body.

Each is sent in the framing that its head announces.
"""

from __future__ import annotations

from prefork.errors import ApplicationError
from prefork.http.h1.render import Head, trailer_section
from prefork.http.message import Chunks, FileSegment, Upgrade
from prefork.net.stream import Stream
from prefork.runtime.task import PAUSE


def send_at_once(stream: Stream, head: Head, segment: FileSegment) -> bool:
    """Send the head and the file as far as the kernel takes them without waiting. True where that was all."""
    if head.silent or not segment.count:
        return False
    return stream.try_send_file(head.wire, segment.file, segment.offset, segment.count)


async def send_file(stream: Stream, head: Head, segment: FileSegment, timeout: float) -> None:
    """Send the rest of the head that `send_at_once` has left and, unless the head is silent, the rest of the file.

    Raises Disconnected, CutShort, OSError: see Stream.
    """
    count = 0 if head.silent else segment.count
    rest = head.wire[stream.sent :]
    sent = max(0, stream.sent - len(head.wire))
    await stream.write(rest, timeout, more=count > 0)
    await stream.send_file(segment.file, segment.offset + sent, count - sent, timeout)


async def send_chunks(stream: Stream, head: Head, chunks: Chunks, timeout: float) -> None:
    """Send the head with the first piece, or before it where `chunks` is prompt; then piece by piece.

    No piece is asked for where the head is silent. Only a chunked body can have trailers (RFC 9112 §7.1.2). Raises
    Disconnected, ApplicationError where the body is longer or shorter than the head says or a trailer field is not
    valid, and any error that `chunks` raises.
    """
    pending, left = head.wire, head.length
    if not head.silent:
        if chunks.prompt:
            await stream.write(pending, timeout)
            pending = b""
        async for piece in chunks:
            if left is not None:
                excess = len(piece) - left
                left = max(0, -excess)
                if excess > 0:
                    await stream.write(pending + piece[:-excess], timeout)
                    raise ApplicationError(f"the body is longer than its Content-Length of {head.length}")
            if piece:
                pending += b"%x\r\n%b\r\n" % (len(piece), piece) if head.chunked else piece
                await stream.write(pending, timeout)
                pending = b""
            await PAUSE  # let the other tasks have a turn, however fast the pieces come
        if left:
            raise ApplicationError(f"the body is {left} bytes shorter than its Content-Length of {head.length}")
        if head.chunked:
            pending += b"0\r\n%b\r\n" % (trailer_section(chunks.trailers) if chunks.trailers else b"")
    await stream.write(pending, timeout)


async def send_upgrade(stream: Stream, head: Head, upgrade: Upgrade, timeout: float) -> None:
    """Send the head, then let `upgrade` converse until it is over. Raises Disconnected."""
    await stream.write(head.wire, timeout)
    await upgrade.converse(stream)
