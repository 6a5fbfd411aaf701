"""Accept balancing: which of the workers that share a listener accepts the next client. Owns one worker's view of the
shares of the others.

With keep-alive, a worker has a client for long. Without balancing, the workers come to shares such as 58, 17, 13 and
12 %. So a worker that is ahead of the others lets them accept first. It still hears of each client, but without taking
a wake-up away from those that may accept (no EPOLLEXCLUSIVE). A moment later it looks whether another has taken the
client.

The share of a worker is counted in busy connections (shared/activity.py). A worker that has no fewer of those than the
mean looks at the open connections, too, as many of them idle now and are busy later. So where one worker has many event
streams or idle clients, the next busy clients do not all go to the other.

A worker whose threads are all in calls cannot call an application for its clients. While others can, it counts as ahead
of them, and they share the clients among themselves.
"""

from __future__ import annotations

import socket
from itertools import compress
from time import monotonic

from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.shared.counters import ACCEPTED, CONNECTIONS, FULL_SINCE
from prefork.shared.scoreboard import STATE, Board, State

BUSY_SLACK = 1  # busy connections that a worker may have beyond its share; two it may always have
SLACK = 4  # open connections that a worker may have beyond its share; as many it may always have
SHARE = 1.1  # times the mean: the share of a worker
TURN_TIMEOUT = 0.003  # seconds that the others have to take a client
TURN_TIMEOUT_FULL = 0.03  # the same where this worker has no free thread for it
LOOKS = 80  # times that a worker lets the others go first; then it takes a client, whatever the others count
MOST_IN_A_ROW = 1024  # clients that a worker takes in a row while the others take none
FULL = 0.05  # seconds for which all threads of a worker must be in calls to make it ahead
SPAN = 0.1  # seconds; connections that live for less even out the shares by themselves, and a look costs 3 us


class AcceptBalance:
    """The accept balancing of the worker in `slot`, among the workers of its generation."""

    def __init__(self, loop: Loop, scoreboard: Board, slot: int) -> None:
        self._loop = loop
        self._scoreboard = scoreboard
        self._slot = slot
        self._own = scoreboard.slot(slot)
        self._taken = 0  # clients that the others had taken at the last look
        self._allowed = 0  # clients that this worker may take though it is ahead
        self._next = 1  # the next value of that, if the others leave a client waiting
        self._lost = 0  # the FULL_SINCE for which `overloaded` has returned
        self._before = 0  # clients that had come by the beginning of this SPAN
        self._until = 0.0  # the end of this SPAN, in monotonic seconds

    async def wait_for_turn(self, listener: socket.socket) -> None:
        """Wait until this worker is not ahead of the others, or until they have left a client waiting.

        Where the others leave one client after another, as they are stopped or busy, this worker takes twice as many
        each time. Another worker may count clients that it does not take, where an application interferes with it;
        LOOKS bounds how long that can keep this worker from a client.
        """
        looks = 0
        while self._is_ahead() and not self._is_allowed() and looks < LOOKS:
            looks += 1
            await self._loop.readable(listener.fileno())
            self._note_others()
            await self._loop.sleep(TURN_TIMEOUT_FULL if self._own[FULL_SINCE] else TURN_TIMEOUT)
            if not self._note_others():
                self._allowed = self._next
                self._next = min(2 * self._next, MOST_IN_A_ROW)
        self._allowed = max(0, self._allowed - 1)

    async def overloaded(self, filled: Condition) -> None:
        """Wait until this worker has had no free thread for FULL seconds while others have one. Returns once for each
        time that the threads are all taken. `filled` is notified when the last free thread gets work.

        A task of this worker that waits for clients by then would take its wake-up from the others (EPOLLEXCLUSIVE), so
        it must begin to wait anew.
        """
        while True:
            await filled.wait_for(lambda: self._own[FULL_SINCE] not in (0, self._lost))
            since = self._own[FULL_SINCE]
            await self._loop.sleep(FULL)
            if self._own[FULL_SINCE] == since and self._is_ahead():
                self._lost = since
                self._allowed, self._next = 0, 1
                return

    def _is_allowed(self) -> bool:
        """Whether this worker may take a client, as the others have left one. A client that another takes ends that."""
        self._note_others()
        return self._allowed > 0

    def _note_others(self) -> bool:
        """Whether another worker has taken a client since the last call. If so, the others go first again."""
        taken = sum(self._scoreboard.column(ACCEPTED)) - self._own[ACCEPTED]
        if taken == self._taken:
            return False
        self._taken = taken
        self._allowed, self._next = 0, 1
        return True

    def _is_ahead(self) -> bool:
        """Whether this worker would clearly be beyond its share of the busy connections with one more; or is clearly
        beyond its share of the open ones, and has no fewer busy ones than the mean; or has no free thread for a client,
        where others have one.
        """
        own_open = self._own[CONNECTIONS]
        has_few = own_open < 2 or self._is_in_flux(own_open)
        if has_few and not self._own[FULL_SINCE]:
            return False
        board, accepting = self._scoreboard, self._accepting()
        if has_few or not accepting[self._slot - 1]:
            return not accepting[self._slot - 1]
        busy = board.busy()
        count, own_busy, all_busy = sum(accepting), busy[self._slot - 1], sum(compress(busy, accepting))
        if own_busy >= 2 and (own_busy + 1) * count > SHARE * (all_busy + 1) + BUSY_SLACK * count:
            return True
        if own_open <= SLACK or own_busy * count < all_busy:
            return False
        all_open = sum(compress(board.column(CONNECTIONS), accepting))
        return own_open * count > SHARE * all_open + SLACK * count

    def _accepting(self) -> list[bool]:
        """For each worker, in the order of the scoreboard's columns, whether it shares the clients. The workers that do
        are the serving ones of this generation that have not been full for FULL seconds; all serving ones where each
        has been.
        """
        board, serving = self._scoreboard, State.SERVING.value
        generation = board.generation(self._slot)
        since = (monotonic() - FULL) * 1000
        ours, free = [], []
        columns = board.column(STATE), board.generations(), board.column(FULL_SINCE)
        for state, number, full in zip(*columns, strict=False):  # as long as the shortest, see `column`
            ours.append(state == serving and number == generation)
            free.append(ours[-1] and not 0 < full <= since)
        return free if any(free) else ours

    def _is_in_flux(self, own: int) -> bool:
        """Whether more connections have come in this SPAN and gone again than are open now (`own`).

        Connections that are older do not count: where many event streams end at once, the clients that come next stay.
        """
        accepted = self._own[ACCEPTED]
        if self._loop.now >= self._until:
            self._until = self._loop.now + SPAN
            self._before = accepted
        return accepted - self._before > 2 * own
