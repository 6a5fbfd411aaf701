"""Byte ranges (RFC 9110 §14). Owns the reading of the Range field, and the body that holds several ranges."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator, Callable

from prefork.errors import CutShort

PIECE = 64 * 1024  # bytes read at once

_RANGES = re.compile(r"bytes[ \t]*=[ \t]*(.*)", re.IGNORECASE)
_ONE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})?|-([0-9]{1,19})")

Range = tuple[int, int]  # offset, count


def parse(value: str, size: int, most: int) -> list[Range] | None:
    """The ranges that the Range field `value` asks for of `size` bytes, in its order, none of them empty.

    [] where all of them lie beyond the end: 416. None where the field must be ignored, and the whole is the better
    answer (§14.2, §17.15): it is not valid, has more than `most` ranges, or asks for more bytes than `size` in all, or
    `size` is 0.
    """
    match = _RANGES.fullmatch(value)
    if match is None or not size or match[1].count(",") > 2 * most:  # empty members are allowed, and take commas, too
        return None
    members = [member for part in match[1].split(",") if (member := part.strip(" \t"))]
    if not members or len(members) > most:
        return None
    ranges = []
    for member in members:
        one = _ONE.fullmatch(member)
        if one is None:
            return None
        first, last, suffix = one.groups()
        if suffix is not None:
            start, end = max(0, size - int(suffix)), size
        else:
            start, end = int(first), size if last is None else int(last) + 1
            if last is not None and end <= start:
                return None
        if start < min(end, size):
            ranges.append((start, min(end, size) - start))
    return None if sum(count for _, count in ranges) > size else ranges


def content_range(offset: int, count: int, size: int) -> str:
    return f"bytes {offset}-{offset + count - 1}/{size}"


class Multipart:
    """The `ranges` of `size` bytes as multipart/byteranges (§14.6); `kind` is the Content-Type of the whole."""

    def __init__(self, ranges: list[Range], size: int, kind: str) -> None:
        boundary = secrets.token_hex(12)
        self.kind = f"multipart/byteranges; boundary={boundary}"
        self.ranges = ranges
        self.heads = [
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {content_range(*one, size)}\r\n\r\n".encode()
            for one in ranges
        ]
        self.end = f"\r\n--{boundary}--\r\n".encode()
        self.length = sum(map(len, self.heads)) + sum(count for _, count in ranges) + len(self.end)

    def of(self, content: bytes) -> bytes:
        """The body, made from the whole `content`."""
        parts = zip(self.heads, self.ranges, strict=True)
        return b"".join(head + content[offset : offset + count] for head, (offset, count) in parts) + self.end


class Parts:
    """The body of `multipart` piece by piece, from an open file. `close` is called when it is not needed any more.

    Raises CutShort where the file is shorter than its ranges say.
    """

    prompt = False
    trailers = ()

    def __init__(self, multipart: Multipart, file: int, close: Callable[[], None]) -> None:
        self._multipart = multipart
        self._file = file
        self._close = close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for head, (offset, count) in zip(self._multipart.heads, self._multipart.ranges, strict=True):
            pending = head
            while count:
                piece = os.pread(self._file, min(count, PIECE), offset)
                if not piece:
                    raise CutShort
                offset, count = offset + len(piece), count - len(piece)
                yield pending + piece
                pending = b""
        yield self._multipart.end

    async def aclose(self) -> None:
        self._close()
