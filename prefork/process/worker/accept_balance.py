"""AcceptBalance: whose turn it is to accept, where workers share a listener. Owns what a worker knows of the others'
share.

With keep-alive, a worker has a client for long; left to themselves the workers come to shares such as 58, 17, 13 and
12 %. So a worker that is ahead of the others lets them go first. It is told of clients all the same, but without
taking a wake-up away from those that may accept (no EPOLLEXCLUSIVE), and looks after a moment whether others took them.

A worker's share is that of the busy connections (shared/activity.py). Only workers that have about as many of those as
the others look at the open ones, too: many a connection idles now that is busy later. So however many event streams or
idle clients one worker has, the next busy clients do not all go to the other.

A worker whose threads are all in calls cannot call an application for its clients: while others can, it is ahead of
them, and they share the clients among themselves.
"""

from __future__ import annotations

import socket
from itertools import compress
from time import monotonic

from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.shared.counters import ACCEPTED, CONNECTIONS, FULL_SINCE
from prefork.shared.scoreboard import STATE, Board, State

BUSY_SLACK = 1  # busy connections that a worker may have more than its share; two it may always have
SLACK = 4  # open connections, likewise
SHARE = 1.1  # times the mean, which is its share
PATIENCE = 0.003  # seconds that the others have to take a client
PATIENCE_FULL = 0.03  # the same where this worker would have no thread for it
LOOKS = 80  # at a client that waits: then one is taken, whatever the others say that they take
MOST = 1024  # clients taken at once where nobody else is there
FULL = 0.05  # seconds that all threads of a worker are in calls, before that counts
SPAN = 0.1  # seconds; where connections live for less, the shares are even by themselves, and looking costs 3 us


class AcceptBalance:
    """The turns of the worker in `slot`, among those of `generation`."""

    def __init__(self, loop: Loop, scoreboard: Board, slot: int) -> None:
        self._loop = loop
        self._scoreboard = scoreboard
        self._slot = slot
        self._own = scoreboard.slot(slot)
        self._taken = 0  # clients that the others had taken when we looked last
        self._allowed = 0  # clients that we may take though we are ahead
        self._next = 1  # how many that will be the next time, when nobody else takes one
        self._lost = 0  # the FULL_SINCE for which `lost` has returned
        self._departed = 0  # clients that had come and gone at the beginning of this SPAN
        self._until = 0.0  # monotonic seconds

    async def wait_for_turn(self, listener: socket.socket) -> None:
        """Wait until this worker is not ahead of the others, or they have left a client waiting.

        Where they leave one after another, as they are stopped or busy, this worker takes twice as many each time. One
        that counts clients which it does not take, as an application has taken over there, cannot keep this from all.
        """
        looks = 0
        while self._is_ahead() and not self._is_allowed() and looks < LOOKS:
            looks += 1
            await self._loop.readable(listener.fileno())
            self._note_others()
            await self._loop.sleep(PATIENCE_FULL if self._own[FULL_SINCE] else PATIENCE)
            if not self._note_others():
                self._allowed = self._next
                self._next = min(2 * self._next, MOST)
        self._allowed = max(0, self._allowed - 1)

    async def overloaded(self, filled: Condition) -> None:
        """Wait until this worker has had no free thread for a while, where others have: once for each time that it has
        come to that. `filled` is rung when the last one gets work. Who waits for clients by then waits for a wake-up
        that nobody else gets, and has to begin anew.
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
        """Whether clients are ours, as the others leave them; that ends when one of them does take one."""
        self._note_others()
        return self._allowed > 0

    def _note_others(self) -> bool:
        """Whether another worker has taken a client since the last time: if so, they are to go first again."""
        taken = sum(self._scoreboard.column(ACCEPTED)) - self._own[ACCEPTED]
        if taken == self._taken:
            return False
        self._taken = taken
        self._allowed, self._next = 0, 1
        return True

    def _is_ahead(self) -> bool:
        """Whether this worker would clearly have more than its share of the busy connections with one more; or has of
        all open ones, and not less than its share of the busy ones; or has no thread for a client, where others do.
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
        """Which workers take part, as the scoreboard's columns have them: those with a free thread, if any has one."""
        board, serving = self._scoreboard, State.SERVING.value
        generation = board.generation(self._slot)
        since = (monotonic() - FULL) * 1000
        ours, free = [], []
        columns = board.column(STATE), board.generations(), board.column(FULL_SINCE)
        for state, number, full in zip(*columns, strict=False):  # see `column`
            ours.append(state == serving and number == generation)
            free.append(ours[-1] and not 0 < full <= since)
        return free if any(free) else ours

    def _is_in_flux(self, own: int) -> bool:
        """Whether more connections have ended in this SPAN than there are."""
        departed = self._own[ACCEPTED] - own
        if self._loop.now >= self._until:
            self._until = self._loop.now + SPAN
            self._departed = departed
        return departed - self._departed > own
