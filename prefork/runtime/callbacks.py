"""Callbacks: functions that other threads have for the thread that runs the loop. Owns the pipe that wakes the loop.

A thread first adds its callback, and then looks whether the loop sleeps. The loop first says that it sleeps, and then
looks whether there are callbacks. So none is missed. A thread that finds the loop asleep marks it as awake, and writes
the byte that makes this true. So only the first of several threads writes (two at the same instant may both), and no
thread writes while the loop turns.
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
    """The callbacks of one loop, which sets `asleep` before it looks at `waiting` and polls, and clears it
    afterwards.
    """

    __slots__ = ("_reading", "_writing", "asleep", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Callback] = deque()
        self.asleep = False
        self._reading = self._writing = -1

    def open(self, loop: Loop) -> None:
        """Make it possible to add from other threads. Raises OSError where there is no descriptor left."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        loop.spawn(self._hear(loop), "hearing from other threads")

    def close(self) -> None:
        for end in (self._reading, self._writing):
            if end >= 0:
                os.close(end)

    def add(self, callback: Callback) -> None:
        """Have the loop call this soon. From any thread. Raises ForkedError in a process forked by an application."""
        if forks.forked:
            raise ForkedError
        self.waiting.append(callback)
        if self.asleep:
            self.asleep = False
            os.write(self._writing, b"!")

    def call(self) -> None:
        """Call the callbacks that wait. In the thread that runs the loop."""
        waiting = self.waiting
        while waiting:
            callback = waiting.popleft()
            try:
                callback()
            except Exception as error:
                log.error("a callback from another thread failed: %r", error, exc_info=error)

    async def _hear(self, loop: Loop) -> None:
        """A task: empty the pipe."""
        readable = loop.readable(self._reading)
        while True:
            await readable
            os.read(self._reading, 4096)
