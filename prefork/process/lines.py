"""Lines: messages between the processes of a server, one JSON value on each line. Owns the checks that a reader makes.

Most of the processes that write such lines run an application, so no line is trusted. Its length is limited, and is
checked with each piece that is read. A piece is appended, and the line is never copied for it (250 MiB without a
newline took the master minutes). A line that is no message raises MalformedMessage, whatever is wrong with it, and the
reader holds its sender responsible.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from prefork.errors import MalformedMessage

LONGEST_LINE = 256 << 10  # bytes of a line: enough for the longest report (messages.py)
READ = 65536  # bytes read at once

T = TypeVar("T")


class Lines:
    """Cuts a stream into lines of at most `longest` bytes."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest = longest
        self._begun = bytearray()  # the beginning of the line that is not complete yet

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in `piece`, without their newlines. Raises MalformedMessage where one is too long."""
        first, *others = piece.split(b"\n")
        self._begun += first
        lines = []
        for other in others:
            lines.append(bytes(self._begun))
            self._begun = bytearray(other)
        if len(self._begun) > self._longest or any(len(line) > self._longest for line in lines):
            raise MalformedMessage(f"a line of more than {self._longest} bytes")
        return lines


def decode(line: bytes, kind: type[T]) -> T:
    """A line as a message of this kind. Raises MalformedMessage."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None
