"""Accepting: takes clients from a listener that several processes share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import Any

from prefork.logger import log
from prefork.net.listen import is_shut
from prefork.runtime import forks
from prefork.runtime.loop import Loop
from prefork.runtime.task import STARTED

BREATH = 0.5  # seconds without accepting when the machine or the process has no descriptors or memory left
LONGEST_QUEUE = 65536  # clients: what net.core.somaxconn allows at the most; where more come, others take them
MOST = 64  # clients accepted in a turn
FOR_EACH = 0.0001  # seconds that a turn takes for others, for each client more than one that is accepted in the next:
# about what it takes to accept one, and to answer it where that is quick
REPEAT = 60.0  # seconds between two words about a listener from which nobody can accept
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# of one client, who is gone: another process took it, it has left, or its network has failed, which Linux tells here
# (accept(2), "Error handling"; EPERM is a firewall's rule). Whatever else there is concerns the listener itself
_OF_A_CLIENT = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EWOULDBLOCK", "ECONNABORTED", "EINTR", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN"),
        *("ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH", "ETIMEDOUT", "ECONNRESET"),
    )
    if hasattr(errno, name)
}

Greet = Callable[[socket.socket, Any], None]  # the client, and its address as accept(2) gives it
Relieve = Callable[[], Awaitable[bool]]  # frees some descriptors, if it can
Room = Callable[[bool], Awaitable[None]]  # waits until there may be room for a client; True: one is here, make it


async def _in_vain() -> bool:
    return False


async def accept(loop: Loop, listener: socket.socket, room: Room, greet: Greet, relieve: Relieve = _in_vain) -> None:
    """Hand every client to `greet`, for ever. What that spawns with `eager` takes its first step before the next client
    is accepted: so a request that ends the process takes nobody with it who came behind it.

    Those are accepted one a turn, so that idle processes get their share (EPOLLEXCLUSIVE); but where turns are long, as
    many as nobody else had the time for: see `_Batch`. Where this process has no descriptors left, ask `relieve` for
    some, or wait for BREATH. Where nobody can accept from the listener any more, as an application has shut it down for
    all of us, say so, and look again after each BREATH.
    """
    told = -inf  # when that was said last, in monotonic seconds
    batch = _Batch(loop)
    while True:
        await room(False)
        if not batch.goes_on():
            # a new wait each time: it puts us at the end of the kernel's queue, whose first process is woken, so that
            # idle processes take turns instead of one taking every client
            await loop.readable(listener.fileno(), exclusive=True)
            batch.begin()
        await room(True)
        try:
            _accept(loop, listener, greet)
        except OSError as error:  # by EAGAIN and the like, someone else took it, or it has left already
            batch.end()
            if error.errno in _EXHAUSTED and not (error.errno == errno.EMFILE and await relieve()):
                log.warning("not accepting for %g s: %s", BREATH, error.strerror)
                await loop.sleep(BREATH)
            elif error.errno not in _EXHAUSTED and (error.errno not in _OF_A_CLIENT or is_shut(listener)):
                if loop.now >= told + REPEAT:
                    told = loop.now
                    words = "cannot accept from %s, which something has shut down; a reload opens it again: %s"
                    log.error(words, _name(listener), error.strerror)
                await loop.sleep(BREATH)
        else:
            await STARTED
            batch.count()


class _Batch:
    """How many clients are accepted in one turn: one, and one more for each FOR_EACH that the turn before took for
    others, as it took its time before it came to the listener again. What it took for new clients does not count, or
    where each of them comes with a request, turns would become longer and longer.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._turn = 0  # that of the latest batch, as the loop counts them
        self._began = 0.0  # monotonic seconds
        self._took = 0.0  # seconds, up to the last client
        self._left = 0  # clients that may be accepted still

    def begin(self) -> None:
        """A client may be there, in another turn than the last one."""
        loop = self._loop
        others = loop.lasted - (self._took if self._turn == loop.turns - 1 else 0.0)
        self._left = min(1 + int(max(0.0, others) / FOR_EACH), MOST)
        self._turn, self._began, self._took = loop.turns, monotonic(), 0.0

    def count(self) -> None:
        """A client has been accepted, and has had the first step."""
        self._left -= 1
        self._took = monotonic() - self._began

    def end(self) -> None:
        """Nobody is there any more."""
        self._left = 0

    def goes_on(self) -> bool:
        """Whether this turn, if it is still the same, has room for one more."""
        return self._left > 0 and self._turn == self._loop.turns


def accept_rest(loop: Loop, listener: socket.socket, greet: Greet) -> None:
    """Hand over whoever is in the queue now: nobody who has connected is to meet a closed door."""
    for _ in range(LONGEST_QUEUE):
        try:
            _accept(loop, listener, greet)
        except OSError:
            return


def _accept(loop: Loop, listener: socket.socket, greet: Greet) -> None:
    """Hand over the next client. Raises OSError.

    No other thread forks meanwhile, or its child would have a client that nobody knows of yet, and could close there.
    """
    with forks.arriving:
        client, address = listener.accept()
        limit = loop.poller.limit
        if limit is not None and client.fileno() >= limit:
            log.warning("a client is refused: the event loop cannot watch descriptor %d", client.fileno())
            client.close()
        else:
            greet(client, address)


def _name(listener: socket.socket) -> str:
    """Its address, as far as that can still be asked."""
    try:
        where = listener.getsockname()
    except OSError:
        return "a listener"
    return f"{where[0]}:{where[1]}" if isinstance(where, tuple) else f"unix:{where}"
