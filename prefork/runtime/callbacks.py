"""Callbacks: what other threads have for the thread that runs the loop. Owns the pipe by which a loop that sleeps is
woken.

A thread appends its post first, and looks afterwards whether the loop sleeps. The loop says first that it sleeps, and
looks afterwards whether there are callbacks. So none is missed. A thread that finds the loop asleep says that it is
awake, and writes the byte that makes this true. So of all that post meanwhile one writes, and none does while the loop
turns.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefork.errors import ForkedError
from prefork.logger import log
from prefork.runtime import forks

if TYPE_CHECKING:
    from prefork.runtime.loop import Loop

Callback = Callable[[], object]


class Callbacks:
    """Those of one loop, which sets `asleep` before it looks at `waiting` and polls, and takes it back thereafter."""

    __slots__ = ("_reading", "_writing", "asleep", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Callback] = deque()
        self.asleep = False
        self._reading = self._writing = -1

    def open(self, loop: Loop) -> None:
        """Make it possible to post from other threads. Raises OSError where there is no descriptor left."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        loop.spawn(self._hear(loop), "hearing from other threads")

    def close(self) -> None:
        for end in (self._reading, self._writing):
            if end >= 0:
                os.close(end)

    def add(self, callback: Callback) -> None:
        """Have the loop call this, soon. From any thread. Raises ForkedError."""
        if forks.forked:
            raise ForkedError
        self.waiting.append(callback)
        if self.asleep:
            self.asleep = False
            os.write(self._writing, b"!")

    def take(self) -> None:
        """Call what is posted. In the thread that runs the loop."""
        waiting = self.waiting
        while waiting:
            callback = waiting.popleft()
            try:
                callback()
            except Exception as error:
                log.error("a callback from another thread failed: %r", error, exc_info=error)

    async def _hear(self, loop: Loop) -> None:
        """Empty the pipe."""
        readable = loop.readable(self._reading)
        while True:
            await readable
            os.read(self._reading, 4096)
