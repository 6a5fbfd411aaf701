"""Events: a flag that tasks wait for. Owns the list of those who do."""

from __future__ import annotations

from prefork.kernel.loop import PARKED, Loop, Task


class Event:
    """A flag to wait for. Any number of tasks wait; once set it stays set."""

    __slots__ = ("_loop", "_set", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task in self._waiting:
            task.wake()

    async def wait(self) -> None:
        task = self._loop.current
        self._waiting.append(task)
        try:
            while not self._set:
                await PARKED
        finally:
            self._waiting.remove(task)
