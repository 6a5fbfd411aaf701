"""A position: the place of one worker in its generation. Owns the state that outlives the worker."""

from __future__ import annotations

import time

from prefork.errors import BootError, TimedOut
from prefork.logger import log
from prefork.process.pool.child import Child
from prefork.process.pool.respawn import Respawn
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Event


class Position:
    """The place of one worker. A worker that holds it is replaced when it ends, until the position is `closed`.

    `holder` is the worker that is ready and alive. `children` are all its living workers, with those that boot or
    leave. A position is `established` once the call that added it has succeeded; where it cannot be filled before that,
    `failure` says why.
    """

    def __init__(self, loop: Loop, number: int) -> None:
        self.number = number  # from 0 on
        self.holder: Child | None = None
        self.children: set[Child] = set()
        self.established = False
        self.failure: BootError | None = None
        self.closed = Event(loop)
        self.respawn = Respawn()
        self.next_attempt: float | None = None  # Unix time, while `pause` waits for it
        self._loop = loop

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt, at most until the position is closed."""
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
