"""The commands that come through the control socket. Owns their names, and the answers to those that make no sense."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from prefork.process.master.control import Message
from prefork.process.master.operations import Change, Operations
from prefork.settings.kinds import MOST_WORKERS


class Commands:
    """Answers commands. `status` makes the figures; `reopen` returns the problems in words, "" for none; `stop` gets
    whether the stop is fast.
    """

    def __init__(
        self,
        operations: Operations,
        status: Callable[[], Awaitable[Message]],
        reopen: Callable[[], str],
        stop: Callable[[bool], None],
    ) -> None:
        self._operations = operations
        self._status = status
        self._reopen = reopen
        self._stop = stop

    async def answer(self, request: Message) -> Message:
        """Obey a command, and return the answer. A change is answered once it has been made, or has failed."""
        command = request.get("command")
        if command == "status":
            return {"ok": True, **await self._status()}
        if command == "reload":
            return await self._operations.add(Change.RELOAD).answer()
        if command == "upgrade":
            return await self._operations.add(Change.UPGRADE).answer()
        if command == "scale":
            return await self._scale(request.get("count"))
        if command == "reopen":
            problems = self._reopen()
            return {"ok": not problems, "message": problems or "log files reopened"}
        if command == "stop":
            self._stop(bool(request.get("now")))
            return {"ok": True, "pid": os.getpid()}
        return {"ok": False, "message": f"unknown command: {command!r}"}

    async def _scale(self, count: object) -> Message:
        if type(count) is not int or not 1 <= count <= MOST_WORKERS:
            return {"ok": False, "message": f"expected an integer from 1 to {MOST_WORKERS}, got {count!r}"}
        return await self._operations.add(Change.SCALE, lambda _: count).answer()
