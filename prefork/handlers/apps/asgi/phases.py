"""The phases of an ASGI application's response, and what is due in each."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """How far a response is."""

    WAITING = auto()  # for http.response.start
    STARTED = auto()  # its head is known; nothing of it is out
    STREAMING = auto()
    UNSEEN = auto()  # the body goes on, and nobody is to see it
    COMPLETE = auto()
    GONE = auto()  # nobody is there to get it


# a member looked up in its class costs 25 ns more on Python 3.11
WAITING, STARTED, STREAMING, UNSEEN, COMPLETE, GONE = Phase

OPEN = frozenset((WAITING, STARTED, STREAMING))
UNDER_WAY = frozenset((STARTED, STREAMING, UNSEEN))
EXPECTED = {
    WAITING: "http.response.start was due",
    STARTED: "the response's body was due",
    STREAMING: "more of the response's body was due",
    UNSEEN: "more of the response's body was due",
    COMPLETE: "the response was complete",
    GONE: "the client was gone",
}
