"""Messages between a child and its parent. Owns their fields, how an error becomes a Report, and which frames of a
traceback the report shows.
"""

from __future__ import annotations

import importlib
import os
import traceback

import msgspec

import prefork
from prefork.errors import PreforkError, StartError, TargetError
from prefork.observe.sink import identity

LEADING = (  # files of frames that come before the application's, by how their names begin
    os.path.join(os.path.dirname(prefork.__file__), ""),
    os.path.join(os.path.dirname(importlib.__file__), ""),
    "<frozen importlib",
)

# A parent's questions and commands to a child, a byte each.
WHERE = b"?"  # log the stacks of your threads, or report them while you boot
WHAT = b"!"  # report an Account
ORDER = b"o"  # the scoreboard has an order for you
NOW = b"n"  # end at once, as SIGINT says

MOST_OF_PROBLEM = 8 << 10  # characters of an error's message in a report, and of its traceback: both fit a line
MOST_OF_TRACEBACK = 32 << 10
MOST_OF_REQUEST = 500


class Account(msgspec.Struct):
    """The oldest request that a worker has under way, "" where there is none, and that request's age in seconds."""

    request: str = ""
    age: float = 0.0

    def within(self, age: float) -> Account:
        """The same, cut to values that can be true of a worker that is `age` seconds old."""
        return Account(self.request[:MOST_OF_REQUEST], min(max(0.0, self.age), age))


class Report(msgspec.Struct):
    """A message from a child to its parent.

    The report of its boot: `problem` is "" when the child is ready, and `asgi` tells whether it hosts an ASGI
    application. While the child boots, `place` has the stacks of its threads, in answer to WHERE. Once it is ready,
    `account` answers WHAT, and a report without one asks that the child be replaced.
    """

    problem: str = ""
    traceback: str = ""
    asgi: bool = False
    place: str = ""
    account: Account | None = None


class Reporter:
    """A child's end of the channel to its parent. `send` may be called any number of times. `fd` is readable when the
    parent asks something, and at its end when the parent has closed the channel.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ready = False  # the child has reported that it is ready
        self.heard = True  # nothing has kept a report from the parent so far
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
        """Close the channel: nothing more can be sent."""
        os.close(self.fd)
        self.heard = False


def describe(error: BaseException) -> Report:
    """An error as a report. A TargetError and a StartError are clear by themselves; any other has its traceback.

    The traceback begins with the application's first frame: the frames before it are the server's, and say nothing
    about the application.
    """
    if isinstance(error, (TargetError, StartError)):
        return Report(_shortened(str(error), MOST_OF_PROBLEM))
    problem = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, PreforkError):
        problem = str(error)  # the server's own words, which need no class name
    told = traceback.TracebackException.from_exception(error)
    behind: list[traceback.TracebackException | None] = [told]
    while behind:
        if one := behind.pop():
            _shorten(one)
            behind += one.__cause__, one.__context__
    text = "".join(told.format())
    return Report(_shortened(encodable(problem), MOST_OF_PROBLEM), _shortened(encodable(text), MOST_OF_TRACEBACK))


def whereabouts(stacks: str) -> Report:
    """A booting child's answer to WHERE."""
    return Report(place=_shortened(encodable(stacks), MOST_OF_TRACEBACK) or "-")


def _shorten(told: traceback.TracebackException) -> None:
    """Drop the frames before the application's first one. Where the application has none, all stay, but for those of a
    SyntaxError.
    """
    theirs = [not frame.filename.startswith(LEADING) for frame in told.stack]
    if any(theirs):
        del told.stack[: theirs.index(True)]
    elif hasattr(told, "lineno"):  # a SyntaxError, which names its place itself; exc_type is deprecated from 3.13 on
        told.stack.clear()


def _shortened(text: str, most: int) -> str:
    """At most `most` characters of `text`, from its beginning and its end, and between them how many are left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def encodable(text: str) -> str:
    """`text` with each lone surrogate escaped. These stand for bytes of a file name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
