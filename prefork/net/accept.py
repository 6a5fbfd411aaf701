"""Accepting: takes clients from a listener that several processes share. Owns how many are taken in a turn."""

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
from prefork.runtime.poller import READ, is_ready
from prefork.runtime.task import STARTED

ACCEPT_PAUSE = 0.5  # seconds without accepting, when no descriptors or memory are left, or the listener is shut down
LONGEST_QUEUE = 65536  # clients: the most that net.core.somaxconn allows; where more come, others take them
LARGEST_BATCH = 64  # clients accepted in a turn, at most
FOR_EACH = 0.0001  # seconds: each time that a turn takes so long for others, the next one accepts one client more;
# about the time that it takes to accept a client, and to answer it where that is quick
WARNING_INTERVAL = 60.0  # seconds between two log lines about a listener from which nobody can accept
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# errors about one client, which is gone: another process took it, it has left, or its network has failed, which Linux
# reports here (accept(2), "Error handling"; EPERM is a firewall's rule). All other errors concern the listener itself
_OF_A_CLIENT = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EWOULDBLOCK", "ECONNABORTED", "EINTR", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN"),
        *("ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH", "ETIMEDOUT", "ECONNRESET"),
    )
    if hasattr(errno, name)
}

Greet = Callable[[socket.socket, Any], None]  # gets the client, and its address as accept(2) gives it
Relieve = Callable[[], Awaitable[bool]]  # frees some descriptors if it can; True: it has
Room = Callable[[bool], Awaitable[None]]  # waits for room for a client; True: a client is here, make room


async def _in_vain() -> bool:
    return False


async def accept(
    loop: Loop,
    listener: socket.socket,
    room: Room,
    greet: Greet,
    relieve: Relieve = _in_vain,
    *,
    pause: float = ACCEPT_PAUSE,
) -> None:
    """Hand every client to `greet`, for ever. A task that `greet` spawns with `eager` takes its first step before the
    next client is accepted: so a request that ends the process takes no later client with it.

    One client is accepted a turn, so that idle processes get their share (EPOLLEXCLUSIVE). Where turns are long, more
    are accepted, as many as nobody else had the time for: see `_Batch`. Where this process has no descriptors left, ask
    `relieve` for some; where that is in vain, wait for `pause` seconds. Where an application has shut the listener
    down, for all processes that share it, nobody can accept from it any more: say so, and look again after each
    `pause`.
    """
    told = -inf  # when the last log line about a shut listener was written, in monotonic seconds
    batch = _Batch(loop)
    while True:
        await room(False)
        if not (batch.goes_on() and is_ready(listener.fileno(), READ)):  # no room is made where nobody is there
            # a new wait each time: the kernel wakes the first process of its queue, and this puts us at the end. So
            # idle processes take turns, and no process takes every client
            await loop.readable(listener.fileno(), exclusive=True)
            batch.begin()
        await room(True)
        try:
            _accept(loop, listener, greet)
        except OSError as error:  # EAGAIN and the like: another process took the client, or it has left already
            batch.end()
            if error.errno in _EXHAUSTED and not is_ready(listener.fileno(), READ):
                continue  # Linux looks for a descriptor first, and then for a client: another process took the client
            if error.errno in _EXHAUSTED and not (error.errno == errno.EMFILE and await relieve()):
                log.warning("not accepting for %g s: %s", pause, error.strerror)
                await loop.sleep(pause)
            elif error.errno not in _EXHAUSTED and (error.errno not in _OF_A_CLIENT or is_shut(listener)):
                if loop.now >= told + WARNING_INTERVAL:
                    told = loop.now
                    words = "cannot accept from %s, which something has shut down; a reload opens it again: %s"
                    log.error(words, _name(listener), error.strerror)
                await loop.sleep(pause)
        else:
            await STARTED
            batch.count()


class _Batch:
    """How many clients are accepted in one turn: one, and one more for each FOR_EACH that the turn before took for
    others, until it came to the listener again. The time that it took for new clients does not count: where each of
    them comes with a request, turns would become longer and longer.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._turn = 0  # the turn of the latest batch, as the loop counts them
        self._began = 0.0  # monotonic seconds
        self._took = 0.0  # seconds, from there to the last client
        self._left = 0  # clients that may still be accepted

    def begin(self) -> None:
        """A client may be there, in another turn than the last batch was."""
        loop = self._loop
        others = loop.lasted - (self._took if self._turn == loop.turns - 1 else 0.0)
        self._left = min(1 + int(max(0.0, others) / FOR_EACH), LARGEST_BATCH)
        self._turn, self._began, self._took = loop.turns, monotonic(), 0.0

    def count(self) -> None:
        """A client has been accepted, and has taken its first step."""
        self._left -= 1
        self._took = monotonic() - self._began

    def end(self) -> None:
        """No client is there any more."""
        self._left = 0

    def goes_on(self) -> bool:
        """True while this turn is still the one of the batch, and has room for one client more."""
        return self._left > 0 and self._turn == self._loop.turns


def accept_rest(loop: Loop, listener: socket.socket, greet: Greet) -> None:
    """Hand over every client that is in the queue now, or it would be reset when the listener is closed."""
    for _ in range(LONGEST_QUEUE):
        try:
            _accept(loop, listener, greet)
        except OSError:
            return


def _accept(loop: Loop, listener: socket.socket, greet: Greet) -> None:
    """Hand over the next client. Raises OSError.

    No other thread may fork meanwhile: its child would hold a client that no `on_fork` call closes, as none knows it
    yet.
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
    """The address of the listener, as far as the system still tells it."""
    try:
        where = listener.getsockname()
    except OSError:
        return "a listener"
    return f"{where[0]}:{where[1]}" if isinstance(where, tuple) else f"unix:{where}"
