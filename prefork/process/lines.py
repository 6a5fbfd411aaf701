"""Lines: messages between the processes of a server, a JSON object each. Owns how much of them is believed.

An application lives in most of the processes that speak here. So a line has a longest length, which is looked at with
each piece that is read; the pieces of a line are never joined anew (250 MiB without a newline took the master minutes);
and what is no message is a MalformedMessage, whatever is wrong with it, for the reader to put down to its sender.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from prefork.errors import MalformedMessage

LONGEST = 256 << 10  # bytes of a line: a report (messages.py) with all that it may quote
READ = 65536  # bytes that are read at once

T = TypeVar("T")


class Lines:
    """Cuts a stream into lines of at most `longest` bytes."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._begun = bytearray()  # of the line that is not complete yet

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
