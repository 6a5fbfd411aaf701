"""Wishes: what signals and commands want changed, and what became of it. Owns the queue, and grants nothing itself.

Wishes that gather while others are granted are granted together: any number of reloads by one, and any number of
changes of the workers' number by the one that they come to.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from prefork.errors import PreforkError
from prefork.kernel.event import Bell, Event
from prefork.kernel.loop import Loop

Resize = Callable[[int], int]  # how many workers there are -> how many there should be


class Wish:
    """A wish for a reload, or with `resize` for another number of workers. Once `done`, `error` tells why it is not."""

    def __init__(self, loop: Loop, resize: Resize | None) -> None:
        self.resize = resize
        self.done = Event(loop)
        self.error: Exception | None = None

    def settle(self, error: Exception | None) -> None:
        self.error = error
        self.done.set()


class Wishes:
    """The wishes that have not been granted yet, in the order in which they came."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: list[Wish] = []
        self._bell = Bell(loop)
        self._refusal: PreforkError | None = None

    def add(self, resize: Resize | None = None) -> Wish:
        wish = Wish(self._loop, resize)
        if self._refusal is None:
            self._waiting.append(wish)
            self._bell.ring()
        else:
            wish.settle(self._refusal)
        return wish

    async def next(self) -> list[Wish]:
        """The next ones that are granted together, waited for: all of them are for a reload, or none is."""
        await self._bell.until(lambda: bool(self._waiting))
        is_reload = self._waiting[0].resize is None
        together = list(takewhile(lambda wish: (wish.resize is None) == is_reload, self._waiting))
        del self._waiting[: len(together)]
        return together

    def refuse(self, error: PreforkError) -> None:
        """Grant none any more: those that wait and those to come end with `error`."""
        self._refusal = error
        waiting, self._waiting = self._waiting, []
        for wish in waiting:
            wish.settle(error)
