"""Reports: what a child says of itself, and how an error becomes one. Owns which frames of a traceback are told."""

from __future__ import annotations

import importlib
import os
import traceback

import msgspec

import prefork
from prefork.errors import PreforkError, StartError, TargetError

LEADING = (  # where the frames are that lead to the application's
    os.path.join(os.path.dirname(prefork.__file__), ""),
    os.path.join(os.path.dirname(importlib.__file__), ""),
    "<frozen importlib",
)


MOST_OF_PROBLEM = 8 << 10  # characters of an error's message that are told, and of its traceback: both fit a line
MOST_OF_TRACEBACK = 32 << 10
MOST_OF_REQUEST = 500


class Account(msgspec.Struct):
    """What a worker is at: of the requests under way the one that came first, "" for none, and its age in seconds."""

    request: str = ""
    age: float = 0.0

    def within(self, age: float) -> Account:
        """The same as far as it can be true of a worker of that age."""
        return Account(self.request[:MOST_OF_REQUEST], min(max(0.0, self.age), age))


class Report(msgspec.Struct):
    """What a child says of its boot; `problem` is "" when it is ready, and `asgi` tells whether it hosts an ASGI
    application. While it boots: `place`, the stacks of its threads, where it was asked for that. Later on: its
    `account`, where it was asked for that, or without one that it is to be replaced.
    """

    problem: str = ""
    traceback: str = ""
    asgi: bool = False
    place: str = ""
    account: Account | None = None


def describe(error: BaseException) -> Report:
    """An error as a report: what is known to be clear stands alone, the rest comes with its traceback.

    That begins where the application does: the frames that led to it are ours, and say nothing of its own.
    """
    if isinstance(error, (TargetError, StartError)):
        return Report(_shortened(str(error), MOST_OF_PROBLEM))
    problem = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, PreforkError):
        problem = str(error)  # our own words, which need no class
    told = traceback.TracebackException.from_exception(error)
    behind: list[traceback.TracebackException | None] = [told]
    while behind:
        if one := behind.pop():
            _shorten(one)
            behind += one.__cause__, one.__context__
    text = "".join(told.format())
    return Report(_shortened(encodable(problem), MOST_OF_PROBLEM), _shortened(encodable(text), MOST_OF_TRACEBACK))


def whereabouts(stacks: str) -> Report:
    """What a child says that is asked where it is while it boots."""
    return Report(place=_shortened(encodable(stacks), MOST_OF_TRACEBACK) or "-")


def _shorten(told: traceback.TracebackException) -> None:
    """Drop the frames before the application's first; all stay if there is none."""
    theirs = [not frame.filename.startswith(LEADING) for frame in told.stack]
    if any(theirs):
        del told.stack[: theirs.index(True)]
    elif hasattr(told, "lineno"):  # a SyntaxError, which names its place itself; exc_type is deprecated from 3.13 on
        told.stack.clear()


def _shortened(text: str, most: int) -> str:
    """At most so many characters, from the beginning and from the end, and how many there are between."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def encodable(text: str) -> str:
    """`text` with lone surrogates, which stand for the bytes of a file name that is not UTF-8, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
