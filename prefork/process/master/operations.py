"""Operations: what signals and commands want changed, and what became of it. Owns the queue, and makes no change
itself.

Operations that gather while others are granted are granted together: any number of reloads by one, upgrades likewise,
and any number of changes of the workers' number by the one that they come to.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from itertools import takewhile

from prefork.errors import PreforkError
from prefork.logger import log
from prefork.process.master.control import Message
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition, Event

Resize = Callable[[int], int]  # how many workers there are -> how many there should be


class Change(Enum):
    """What can be wished for, in words."""

    RELOAD = "reload"
    UPGRADE = "upgrade"
    SCALE = "change of the number of workers"


class Operation:
    """A operation for a change, SCALE with `resize`. Once `done`, `outcome` tells how it was granted, or `error` why
    not.
    """

    def __init__(self, loop: Loop, change: Change, resize: Resize | None) -> None:
        self.change = change
        self.resize = resize
        self.done = Event(loop)
        self.outcome = ""
        self.error: Exception | None = None

    def settle(self, outcome: str, error: Exception | None) -> None:
        self.outcome = outcome
        self.error = error
        self.done.set()

    async def answer(self) -> Message:
        """What the control socket says of it, when it is done."""
        await self.done.wait()
        if self.error is None:
            return {"ok": True, "message": self.outcome}
        return {"ok": False, "message": str(self.error), "report": getattr(self.error, "report", "")}


Make = Callable[[Change, Sequence[Operation]], Awaitable[str]]  # the outcome; PreforkError where nothing has changed


class Operations:
    """The operations that have not been granted yet, in the order in which they came.

    `last` is how the last change of each kind went: when (Unix time), whether it was made, and if not, why (with the
    application's traceback as `report`).
    """

    def __init__(self, loop: Loop) -> None:
        self.last: dict[Change, Message] = {}
        self._loop = loop
        self._waiting: list[Operation] = []
        self._condition = Condition(loop)
        self._refusal: PreforkError | None = None

    def add(self, change: Change, resize: Resize | None = None) -> Operation:
        operation = Operation(self._loop, change, resize)
        if self._refusal is None:
            self._waiting.append(operation)
            self._condition.notify_all()
        else:
            operation.settle("", self._refusal)
        return operation

    async def next(self) -> list[Operation]:
        """The next ones that are granted together, waited for: all of them are for the same change."""
        await self._condition.wait_for(lambda: bool(self._waiting))
        change = self._waiting[0].change
        together = list(takewhile(lambda operation: operation.change is change, self._waiting))
        del self._waiting[: len(together)]
        return together

    async def grant(self, make: Make) -> None:
        """Have the changes made, one after the other, and tell all who have wished for them; for ever."""
        while True:
            operations = await self.next()
            change, outcome = operations[0].change, ""
            error: Exception | None = None
            try:
                outcome = await make(change, operations)
            except GeneratorExit:
                error = self._refusal
                raise
            except Exception as failure:
                error = failure
                unforeseen = None if isinstance(failure, PreforkError) else failure
                extra = {"report": getattr(failure, "report", "")}
                words = "%s failed, so all stays as it was: %s"
                log.error(words, change.value, failure, extra=extra, exc_info=unforeseen)
            finally:
                self.last[change] = {
                    "at": time.time(),
                    "ok": error is None,
                    "message": str(error or ""),
                    "report": getattr(error, "report", ""),
                }
                for operation in operations:
                    operation.settle(outcome, error)

    def refuse(self, error: PreforkError) -> None:
        """Grant none any more: those that wait and those to come end with `error`."""
        self._refusal = error
        waiting, self._waiting = self._waiting, []
        for operation in waiting:
            operation.settle("", error)
