"""A position: a worker's place in its generation, and what is known of those who have held it."""

from __future__ import annotations

import time

from prefork.errors import BootError, TimedOut
from prefork.logger import log
from prefork.process.pool.child import Child
from prefork.process.pool.respawn import Respawn
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Event


class Position:
    """A worker's place: whoever holds it is replaced, until the position is `closed`.

    `holder` is ready and alive; `children` are all that live, those that boot or leave too. Where a position that is
    not `established` cannot be filled, `failure` says why.
    """

    def __init__(self, loop: Loop, number: int) -> None:
        self.number = number  # from 0 on
        self.holder: Child | None = None
        self.children: set[Child] = set()
        self.established = False
        self.failure: BootError | None = None
        self.closed = Event(loop)
        self.respawn = Respawn()
        self.next_attempt: float | None = None  # Unix time, while one is waited for
        self._loop = loop

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt, but no longer than there is the position."""
        if not seconds or self.closed.is_set():
            return
        log.warning("the next attempt to replace it in %g s", round(seconds, 1))
        self.next_attempt = time.time() + seconds
        try:
            with self._loop.within(seconds):
                await self.closed.wait()
        except TimedOut:
            pass
        finally:
            self.next_attempt = None
