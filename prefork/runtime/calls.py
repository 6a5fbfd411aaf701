"""Calls: which threads are at work for the application, on what, since when, and which of them take too long.

Owns the record of calls. It is part of the loop's state, so only the leader touches it (threads.py). There are two
exceptions: `since`, and the one store by which a thread says that it begins or ends a call that has waited for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from threading import get_ident
from time import monotonic
from typing import Any, Protocol

from prefork.errors import Abandoned
from prefork.logger import log
from prefork.runtime.loop import Loop
from prefork.runtime.owner import Superseded
from prefork.runtime.sync import Condition
from prefork.runtime.task import Task, Wait


class Call:
    """`thread` (its ident) does `what` for `task`. Both are known once the call is under way without the loop.

    A call from which nothing has come for `timeout` seconds (0: any) is overdue, and is `abandoned`. The seconds count
    from `since` (monotonic seconds), which the thread sets anew whenever something comes of the call; it is inf while
    the thread waits for the client. `began` is when the thread took up `what`. `left` is the coroutine that the thread
    is in and the task has gone on without, if any. The leader calls `over` once the thread is done.
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
    """Hears, from the leader, how its call goes on without the task that has made it (Calls.detach)."""

    def begins(self, task: Task) -> None:
        """The task is about to go on by another coroutine."""

    def answered(self) -> None:
        """That coroutine has its answer, from this call or from elsewhere."""

    def refused(self) -> None:
        """The task does not go on by another coroutine: it is too late, or the task has no owner."""


class Ending:
    """The leader enters this in place of `what` when the outcome of `what` is there, and only the application has
    something left to do. If that costs the leader the loop, its task goes on without it, as by `detach`.
    """

    __slots__ = ("detached", "what")

    def __init__(self, what: Any, detached: Detached) -> None:
        self.what = what
        self.detached = detached


class Calls:
    """The calls without the loop. `under_way` has the calls that threads are in, by thread. `away` has the calls that
    tasks wait for, under way or waiting for a thread.

    The leader calls `overdue` once for each call that takes too long. `changed` is notified when the calls change.
    """

    def __init__(self, loop: Loop) -> None:
        self.away: dict[Task, Call] = {}
        self.overdue: Callable[[Call], None] = _nothing
        self.changed = Condition(loop)
        self._by_thread: dict[int, Call | None] = {}  # has every thread from the beginning, so any thread may read it
        self._loop = loop

    def enroll(self, thread: int) -> None:
        """Add a thread (its ident), which is in no call yet."""
        self._by_thread[thread] = None

    @property
    def under_way(self) -> dict[int, Call]:
        return {thread: call for thread, call in self._by_thread.items() if call is not None}

    def begin(self, call: Call, thread: int, task: Task) -> None:
        """The thread is in this call from now on, and no more in the one before."""
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
        """The call is over. A task that is away for it goes on, even where the work forgot to hand it back."""
        if self.away.get(call.task) is call:
            self.hand_back(call.task)
        if call.left is not None:
            _end(call.left)
        if call.over is not None:
            call.over()
        self.changed.notify_all()

    # ---- in the thread that takes up a call which has waited for a thread

    def take_up(self, call: Call) -> None:
        """This thread, which is in no call, is in this one from now on."""
        call.thread = get_ident()
        call.since = call.began = monotonic()
        self._by_thread[call.thread] = call

    def put_down(self, call: Call) -> None:
        """This thread is done with the call. The leader must hear of it by `ended`."""
        self._by_thread[call.thread] = None

    def detach(self, thread: int, call: Call, detached: Detached) -> None:
        """Let the task go on by another coroutine, while the thread is in `call`. This is refused where the thread does
        something else by now, where the task has no owner or does not wait for it any more, or where the call is
        abandoned.
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
        """Let a task that is away go on. Abandoned is raised in it where nobody waits for its outcome any more."""
        call = self.away.pop(task)
        if call.abandoned:
            task.throw(Abandoned(f"after {call.timeout:g} s"))
        else:
            task.resume()

    async def guard(self) -> None:
        """A task: abandon the calls that take too long, wake their tasks, and tell of them."""
        while True:
            await self.changed.wait_for(lambda: bool(self.away or self.under_way))
            await self._loop.sleep(self._loop.sweep)
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
    """Have the task go on by this coroutine, when the loop comes to the ready tasks. Returns the former coroutine,
    which a thread is in: it must be kept until the thread has left it, and must be ended then.
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
        coroutine.close()  # it awaits something again, and must not get it


def _nothing(call: Call) -> None:
    pass
