"""The phases of an ASGI application's response, and the next message that is expected in each."""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    """How far a response is."""

    WAITING = auto()  # for http.response.start
    STARTED = auto()  # the head is known; nothing has been sent
    STREAMING = auto()
    UNSEEN = auto()  # the application goes on with a body that is not sent (HEAD, 304)
    COMPLETE = auto()
    GONE = auto()  # the client is gone, or the exchange has failed


class Trailers(Enum):
    """The trailer section of a response (the extension http.response.trailers)."""

    NONE = auto()  # or it is complete
    ANNOUNCED = auto()  # http.response.start has said that it will come
    DUE = auto()  # the body is complete


# to look up a member in its class costs 25 ns more on Python 3.11
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
