"""Operations: the changes that signals and commands ask for, and their outcomes. Owns the queue, and makes no change
itself.

While one change is made, further operations wait. Those of the same kind that follow each other are then granted
together: any number of reloads by one reload, upgrades likewise, and any number of changes of the workers' number by
the number that they come to.
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
    """The kinds of operations, in words."""

    RELOAD = "reload"
    UPGRADE = "upgrade"
    SCALE = "change of the number of workers"


class Operation:
    """A request for a change; one for SCALE has a `resize`. Once it is `done`, `outcome` says in words how it went, or
    `error` why it failed.
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
        """Wait until it is done. Returns the answer for the control socket."""
        await self.done.wait()
        if self.error is None:
            return {"ok": True, "message": self.outcome}
        return {"ok": False, "message": str(self.error), "report": getattr(self.error, "report", "")}


Make = Callable[[Change, Sequence[Operation]], Awaitable[str]]  # the outcome; PreforkError where nothing has changed


class Operations:
    """The operations that have not been granted yet, in the order in which they came.

    `last` tells how the last change of each kind went: the time of its end (Unix time), whether it was made, and if
    not, why (with the application's traceback as `report`).
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
        """Wait for the next operations that can be granted together: all of them are of the same kind."""
        await self._condition.wait_for(lambda: bool(self._waiting))
        change = self._waiting[0].change
        together = list(takewhile(lambda operation: operation.change is change, self._waiting))
        del self._waiting[: len(together)]
        return together

    async def grant(self, make: Make) -> None:
        """Have `make` make the changes, one after the other, and settle their operations. Never returns."""
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
        """Grant nothing any more: operations that wait, and those that are added later, end with `error`."""
        self._refusal = error
        waiting, self._waiting = self._waiting, []
        for operation in waiting:
            operation.settle("", error)
