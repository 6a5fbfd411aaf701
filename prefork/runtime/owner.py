"""Owners: how a task goes on by another coroutine, where a thread is held up in the one that it has (calls.py)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prefork.runtime.task import Wait


class Superseded(BaseException):
    """Raised in a coroutine that its task has gone on without: what it had under way is another's by now.

    Not a GeneratorExit, which what is awaited would get as a plain one, as if the task were cancelled.
    """


class Owner(Protocol):
    """Whose task it is."""

    def go_on(self, answered: Callable[[], None]) -> Coroutine[Wait, None, None]:
        """What does the rest in the place of the task's coroutine. It calls the same application in the same way, which
        answers with what its call under way gives; `answered` is to be called then, whoever has answered.
        """
