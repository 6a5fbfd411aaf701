"""Activity: how many connections of a worker are busy. Owns the definition of that.

A connection is busy for SPAN after its beginning or its last request, and for up to two SPANs more. So idle ones do not
count, nor event streams and WebSockets, which begin but once. A worker that is slow to answer still looks busy; by its
rate of requests, it would look idle.
"""

from __future__ import annotations

from typing import Protocol

from prefork.shared.counters import BUSY, BUSY_BEFORE, BUSY_UNTIL

SPAN = 0.5  # seconds
_NONE = -1.0  # stands for the end of a span that there was not


class Active(Protocol):
    """A connection: `busy_until` is the end of the span in which it was counted last (the loop's time); 0: never."""

    busy_until: float


class Activity:
    """Counts the busy connections of a worker, in its scoreboard slot `board`, for all processes to see (see `busy`).

    A span begins with the first event after the end of the one before, so no task has to wake up for a span to end.
    """

    def __init__(self, board: memoryview) -> None:
        self._board = board
        self._until = _NONE  # the end of this span
        self._before = _NONE  # and of the one before, if that ended just before this one began
        self._count = self._count_before = 0  # connections that were counted last in this span, in the one before

    def note(self, connection: Active, now: float, lasted: float) -> None:
        """Count a connection whose `busy_until` has come, as it begins something. `lasted` is the length of the loop's
        last turn (seconds): a connection that was busy before that turn has had no chance to be busy in it.
        """
        if now >= self._until:
            follows = now < self._until + SPAN + lasted
            self._before = self._until if follows else _NONE
            self._count_before = self._count if follows else 0
            self._until, self._count = now + SPAN, 0
        if connection.busy_until == self._before:
            self._count_before -= 1
        self._count += 1
        connection.busy_until = self._until
        self._publish()

    def leave(self, connection: Active) -> None:
        """The connection has ended."""
        if connection.busy_until == self._until:
            self._count -= 1
        elif connection.busy_until == self._before:
            self._count_before -= 1
        else:
            return
        self._publish()

    def _publish(self) -> None:
        board = self._board
        board[BUSY] = self._count
        board[BUSY_BEFORE] = self._count_before
        board[BUSY_UNTIL] = int(self._until * 1000)


def busy(count: int, before: int, until: int, now: float) -> int:
    """How many connections of a worker are busy at `now` (monotonic seconds), by its words BUSY, BUSY_BEFORE and
    BUSY_UNTIL. Where its loop is in a turn, `now` must be the beginning of that turn, as the worker cannot count before
    the next.
    """
    passed = now * 1000 - until
    if passed < 0:
        return count + before
    return count if passed < SPAN * 1000 else 0
