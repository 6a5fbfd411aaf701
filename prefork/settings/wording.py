"""Wording: owns how a message shows keys and values, always on one line. Owns no rule of the configuration."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from datetime import date, datetime, time

MORE_DESCRIPTORS = "allow more by `ulimit -n`, or LimitNOFILE of a service"
LONGEST_VALUE = 60  # characters of a value that a message repeats


def quoted(text: str) -> str:
    """`text` in double quotes, cut to LONGEST_VALUE characters, with all unprintable characters escaped."""
    cut = text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."
    printable = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut.replace("\\", "\\\\")
    )
    return '"' + printable.replace('"', '\\"') + '"'


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known word that is most like `word`; "" if none has at least this `likeness`. A likeness of 1 is the same."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=likeness)), "")


def found(value: object) -> str:
    """A value of the file, in words."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= 64 else "an integer beyond 64 bits"
        case dict():
            return "a table"
        case list():
            return "a list"
        case datetime() | date() | time():
            return f"the date or time {value.isoformat()}"
        case _:
            return str(value)


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 route", "2 addresses"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun if number == 1 else noun + plural}"


def dotted(where: str, key: str) -> str:
    """The dotted path of `key` in the table `where`; "" is the whole file."""
    shown = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
    return f"{where}.{shown}" if where else shown


def to_install(package: str) -> str:
    """The command that installs an optional package. Not `prefork[standard]`, as prefork is on no package index."""
    return f"pip install {package}"
