"""Conditions, events and locks: waiting in a task for what other tasks bring about. Owns the list of waiting tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, Task


class Condition:
    """Tasks wait until something holds. `notify_all` must be called whenever it may. Any number of tasks wait:
    `waiting`.
    """

    __slots__ = ("_loop", "waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.waiting: list[Task] = []

    def notify_all(self) -> None:
        """Have every waiting task look again."""
        for task in self.waiting:
            task.wake()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds. The task looks now, and after each `notify_all`."""
        task = self._loop.current
        self.waiting.append(task)
        try:
            while not condition():
                await PARKED
        finally:
            self.waiting.remove(task)


class Event:
    """A flag to wait for. Any number of tasks wait; once set it stays set."""

    __slots__ = ("_condition", "_set")

    def __init__(self, loop: Loop) -> None:
        self._condition = Condition(loop)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._condition.notify_all()

    async def wait(self) -> None:
        await self._condition.wait_for(self.is_set)


class Lock:
    """One task after the other, in the order in which they came. `locked`: a task holds it."""

    __slots__ = ("_loop", "_waiting", "locked")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: deque[Task] = deque()
        self.locked = False

    async def acquire(self) -> None:
        """Wait for the lock."""
        if self.locked:
            task = self._loop.current
            self._waiting.append(task)
            try:
                while task in self._waiting:
                    await PARKED
            except BaseException:
                if task in self._waiting:
                    self._waiting.remove(task)
                else:
                    self.release()
                raise
        self.locked = True

    def release(self) -> None:
        """Hand the lock to the task that has waited for it the longest, if any."""
        if self._waiting:
            self._waiting.popleft().wake()
        else:
            self.locked = False
