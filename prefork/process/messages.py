"""Messages: what a child and its parent say to each other, and how an error becomes a report. Owns which frames of a
traceback are told.
"""

from __future__ import annotations

import importlib
import os
import traceback

import msgspec

import prefork
from prefork.errors import PreforkError, StartError, TargetError
from prefork.observe.sink import identity

LEADING = (  # where the frames are that lead to the application's
    os.path.join(os.path.dirname(prefork.__file__), ""),
    os.path.join(os.path.dirname(importlib.__file__), ""),
    "<frozen importlib",
)

# What a parent asks of a child, a byte each.
WHERE = b"?"
WHAT = b"!"
ORDER = b"o"  # there is one for it in the scoreboard
NOW = b"n"  # end at once, as SIGINT says

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


class Reporter:
    """A child's end of the line to its parent. Called with a Report it says that, once or again; `fd` is readable when
    the parent asks something, and at its end when the parent wants to hear no more.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ready = False  # by its own word
        self.heard = True  # by the parent, so far
        self._identity = identity(fd)

    def send(self, report: Report) -> None:
        self.ready = self.ready or not (report.place or report.problem)
        if identity(self.fd) != self._identity:  # an application has closed it, and may have its number
            self.heard = False
            return
        try:
            os.write(self.fd, msgspec.json.encode(report) + b"\n")
        except OSError:
            self.heard = False

    def close(self) -> None:
        """Say nothing any more."""
        os.close(self.fd)
        self.heard = False


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
