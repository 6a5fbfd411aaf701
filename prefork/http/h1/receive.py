"""Receiving of request heads that do not come whole in one piece. Owns their time limit."""

from __future__ import annotations

from time import monotonic

from prefork.errors import Disconnected, RequestTimeout, TimedOut
from prefork.http.h1.parse import HEAD_END, Head, Heads
from prefork.net.stream import Stream


async def receive_head(stream: Stream, heads: Heads, data: bytes, timeout: float) -> tuple[Head, bytes]:
    """The head that `data` begins with, and the bytes behind it. Reads on until the head is whole.

    `timeout` is in seconds, for the whole head: a client that drips does not get more time. Raises ProtocolError and
    Disconnected, and then the part that has come is in the stream's `unread`.
    """
    until = monotonic() + timeout
    known = 0
    while True:
        stream.unread = data
        end = data.find(HEAD_END, max(0, known - 3))
        if end >= 0:
            head = heads.parse(data, end)
            stream.unread = b""
            return head, data[end + 4 :]
        heads.check_partial(data, known)
        known = len(data)
        try:
            piece = await stream.read(until - monotonic())
        except TimedOut:
            raise RequestTimeout(f"no whole head within {timeout:g} s") from None
        if not piece:
            raise Disconnected("the client left in mid-head")
        data += piece
