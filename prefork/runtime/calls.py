"""Calls: which threads are at work for the application, on what, since when, and which of them take too long.

Owns what is known of them. It is the loop's state, which its leader alone touches (threads.py), but for `since`, and
for what a thread says of itself, by one store, as it begins and ends a call that has waited for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from threading import get_ident
from time import monotonic
from typing import Any, Protocol

from prefork.errors import Abandoned
from prefork.logger import log
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.owner import Superseded
from prefork.runtime.sync import Condition
from prefork.runtime.task import Task, Wait


class Call:
    """`what` is being done by `thread` (its ident) for `task`; both are known once it is under way without the loop.

    Where nothing has come of it for `timeout` seconds (0: any) it is overdue, and `abandoned`. They count from `since`
    (monotonic seconds), which its thread sets anew whenever something comes of it; inf while that waits for the loop.
    `began` is when its thread came to be at what this is about; `left` the coroutine that the thread is in and the task
    has gone on without, if any. `over` is called by the leader once its thread is done.
    """

    __slots__ = ("abandoned", "began", "left", "over", "since", "task", "thread", "timeout", "what")

    task: Task
    thread: int

    def __init__(self, what: Any, timeout: float) -> None:
        self.what = what
        self.timeout = timeout
        self.since = self.began = monotonic()
        self.abandoned = False
        self.left: Coroutine[Wait, None, None] | None = None
        self.over: Callable[[], None] | None = None


class Detached(Protocol):
    """What hears, from the leader, how its call goes on without the task that has made it (Calls.detach)."""

    def begins(self, task: Task) -> None:
        """The task is about to go on by another coroutine."""

    def answered(self) -> None:
        """That coroutine has its answer, from this call or not."""

    def refused(self) -> None:
        """The task does not go on: it is too late."""


class Ending:
    """What the leader enters in the place of `what` when the outcome of that is there, and only the application has
    something left to do: should it lose the loop by that, its task goes on without it, as by `detach`.
    """

    __slots__ = ("detached", "what")

    def __init__(self, what: Any, detached: Detached) -> None:
        self.what = what
        self.detached = detached


class Calls:
    """The calls without the loop: each one `under_way`, by its thread, and those that a task is `away` for, under way
    or waiting for a thread.

    `overdue` is called by the leader for each call that is, once; `changed` is rung when there are more or fewer.
    """

    def __init__(self, loop: Loop) -> None:
        self.away: dict[Task, Call] = {}
        self.overdue: Callable[[Call], None] = _nothing
        self.changed = Condition(loop)
        self._by_thread: dict[int, Call | None] = {}  # has all threads from the beginning, so can be read in any
        self._loop = loop

    def enroll(self, thread: int) -> None:
        """There is this thread (its ident), at nothing yet."""
        self._by_thread[thread] = None

    @property
    def under_way(self) -> dict[int, Call]:
        return {thread: call for thread, call in self._by_thread.items() if call is not None}

    def begin(self, call: Call, thread: int, task: Task) -> None:
        """The thread is at the call from now on, and no more at what it did before."""
        before = self._by_thread[thread]
        if before is not None and before.what is call.what:
            call.began = before.began
        call.thread = thread
        call.task = task
        self._by_thread[thread] = call
        self.changed.notify_all()

    def end(self, thread: int) -> None:
        """The thread has done its work."""
        call = self._by_thread[thread]
        assert call is not None
        self._by_thread[thread] = None
        self.ended(call)

    def ended(self, call: Call) -> None:
        """A task that is away for this call goes on, even where the work forgot to say so."""
        if self.away.get(call.task) is call:
            self.hand_back(call.task)
        if call.left is not None:
            _end(call.left)
        if call.over is not None:
            call.over()
        self.changed.notify_all()

    # ---- in the thread of a call that has waited for it

    def take_up(self, call: Call) -> None:
        """This thread, which is at nothing, is at the call from now on."""
        call.thread = get_ident()
        call.since = call.began = monotonic()
        self._by_thread[call.thread] = call

    def put_down(self, call: Call) -> None:
        """It is done with it. The leader has to hear of it by `ended`."""
        self._by_thread[call.thread] = None

    def detach(self, thread: int, call: Call, detached: Detached) -> None:
        """Let the task of what the thread is at go on by another coroutine, and the thread be at `call`; not where it
        is at something else than that is about by now, or where nobody waits for its outcome any more.
        """
        before = self._by_thread.get(thread)
        if before is None or before.what is not call.what or before.abandoned:
            detached.refused()
            return
        task = before.task
        if task.owner is None or self.away.get(task) is not before:
            detached.refused()
            return
        del self.away[task]
        detached.begins(task)
        call.left = _replace(task, task.owner.go_on(detached.answered))
        self.begin(call, thread, task)

    def hand_back(self, task: Task) -> None:
        """Let a task that is away go on; by Abandoned, where nobody waits for its outcome any more."""
        call = self.away.pop(task)
        if call.abandoned:
            task.throw(Abandoned(f"after {call.timeout:g} s"))
        else:
            task.resume()

    async def guard(self) -> None:
        """Tell of those that take too long, and have their tasks look."""
        while True:
            await self.changed.wait_for(lambda: bool(self.away or self.under_way))
            await self._loop.sleep(SWEEP)
            for call in self.under_way.values():
                if call.timeout and not call.abandoned and self._loop.now - call.since >= call.timeout:
                    call.abandoned = True
                    call.task.wake()
                    self.changed.notify_all()
                    self._tell(call)

    def _tell(self, call: Call) -> None:
        try:
            self.overdue(call)
        except Exception as error:  # there will be others to tell of
            log.error("could not report a call that takes too long: %r", error, exc_info=error)


def _replace(task: Task, coroutine: Coroutine[Wait, None, None]) -> Coroutine[Wait, None, None]:
    """Have the task go on by this coroutine, in the loop's next turn. Returns the one that a thread is in: it must be
    kept until that thread has left it, and be ended then.
    """
    before, task.coroutine, task.send = task.coroutine, coroutine, coroutine.send
    task.resume()
    return before


def _end(coroutine: Coroutine[Wait, None, None]) -> None:
    try:
        coroutine.throw(Superseded())
    except (StopIteration, Superseded):
        pass
    except Exception as error:
        log.error("the coroutine of an abandoned call crashed", exc_info=error)
    else:
        coroutine.close()  # it waits for something, which is not its to have


def _nothing(call: Call) -> None:
    pass
