"""The terminal: all text that is printed for people goes through here, and cannot steer the terminal.

The text of a master, a worker, an application's exception or a file is not trusted: as in the error log, all that is
not printable is escaped, line by line.
"""

from __future__ import annotations

import sys
from typing import TextIO

import msgspec

from prefork.observe.error_log import escape


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines and flush them, to standard output unless another stream is given. Raises OSError, and ValueError if
    the stream is closed.
    """
    print(printable(text), file=sys.stdout if stream is None else stream, flush=True)


def printable(text: str) -> str:
    """The same lines, with all that is not printable escaped."""
    return "\n".join(escape(line.expandtabs()) for line in text.split("\n"))


def printable_json(value: object) -> str:
    """`value` as indented JSON, in which characters that are not printable are escaped."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""The JSON escape of a character: \uXXXX for each unit of UTF-16 (RFC 8259 §7)."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
