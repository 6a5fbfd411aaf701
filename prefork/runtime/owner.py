"""Owners: how a task goes on by another coroutine while a thread is held up in its first one (calls.py)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prefork.runtime.task import Wait


class Superseded(BaseException):
    """Raised in a coroutine that its task has gone on without: another coroutine does the rest of its work.

    It is no GeneratorExit: the coroutine awaited inside would get that as a plain one, as if the task were cancelled.
    """


class Owner(Protocol):
    """The object that a task belongs to."""

    def go_on(self, answered: Callable[[], None]) -> Coroutine[Wait, None, None]:
        """The coroutine that does the rest in place of the task's own. It calls the same application in the same way,
        and gets what the call under way gives. It must call `answered` then, wherever the answer came from.
        """
