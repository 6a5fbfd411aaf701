"""The reserve: connections beyond the limit, for new clients while all others are taken for long. Owns the rule for
when a client may have one, and the warning.

Clients beyond `workers.connections` wait in the backlog, which is right while requests end. Where WebSockets or event
streams take every connection of every worker, these clients would wait for ever, a load balancer that asks for the
status among them. So a few clients are accepted all the same. Each has one answer: that of a status route, or else a
503, which tells the client to come again.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from math import inf

from prefork.errors import TimedOut
from prefork.http.exchange import Phase
from prefork.http.registry import Server
from prefork.logger import log
from prefork.runtime.task import PAUSE
from prefork.shared.counters import CONNECTIONS
from prefork.shared.scoreboard import STATE, Board, State

PLACES = 8  # connections in the reserve of a worker
LOOK_INTERVAL = 0.5  # seconds between two checks whether all connections are taken for long
WARNING_INTERVAL = 60.0  # seconds between two warnings


class Reserve:
    """The reserve of the worker in `slot`, beyond the `limit` of its server."""

    def __init__(self, server: Server, scoreboard: Board, slot: int) -> None:
        self._server = server
        self._loop = server.loop
        self._scoreboard = scoreboard
        self._slot = slot
        self._warned = -inf  # when the last warning was logged (the loop's time)
        self._open: set[socket.socket] = set()  # listeners whose next client may have a place in the reserve

    async def admit(self, listener: socket.socket, *, shared: bool) -> bool:
        """Wait until the server has room for a client of `listener`, or an idle connection that can give way. False: a
        client waits that may have a place in the reserve. Where the listener is `shared` with workers that have room,
        they take the client.
        """
        server = self._server
        self._open.discard(listener)
        while len(server.connections) >= server.limit:
            if server.has_room():  # perhaps not for long: a new connection is idle until its client sends something
                await self._loop.readable(listener.fileno())  # takes no wake-up from others
                await PAUSE
                if server.has_room():
                    return True
            elif server.is_taken and (not shared or self._others_are_full()):
                if _has_client(listener) and self._warn():
                    self._open.add(listener)
                    return False
                with suppress(TimedOut), self._loop.within(LOOK_INTERVAL):
                    await self._loop.readable(listener.fileno())
            else:
                with suppress(TimedOut), self._loop.within(LOOK_INTERVAL):
                    await server.room(wanted=False)
        return True

    async def make_room(self, listener: socket.socket, *, shared: bool) -> None:
        """A client waits: have an idle connection give way, unless the client may have a place in the reserve."""
        while listener not in self._open:
            with suppress(TimedOut), self._loop.within(LOOK_INTERVAL):
                await self._server.room(wanted=True)
                return
            await self.admit(listener, shared=shared)

    def _others_are_full(self) -> bool:
        """Whether each serving worker of this generation has as many connections as it may have."""
        board, serving = self._scoreboard, State.SERVING.value
        generation = board.generation(self._slot)
        columns = zip(board.column(CONNECTIONS), board.column(STATE), board.generations(), strict=False)
        return all(
            count >= self._server.limit for count, state, number in columns if state == serving and number == generation
        )

    def _warn(self) -> bool:
        """Log, at most once in WARNING_INTERVAL seconds, that the server is full. Whether there is a place in the
        reserve.
        """
        if self._loop.now >= self._warned + WARNING_INTERVAL:
            self._warned = self._loop.now
            upgraded = sum(one.phase is Phase.UPGRADED for one in self._server.exchanges())
            what = "all %d connections are taken for long, %d of them by WebSockets: new clients get a 503, except"
            log.warning(f"{what} for the status route; workers.connections allows more", self._server.limit, upgraded)
        return len(self._server.connections) < self._server.limit + PLACES


def _has_client(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
