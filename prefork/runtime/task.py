"""Tasks, and the things that they wait for. Owns what a task knows of itself; the loop (loop.py) decides when it goes
on.

A coroutine awaits a Wait, and the loop gets that very object. The loop arms it for the coroutine's task, and disarms it
when the task goes on, for whatever reason. A task that comes back for the same Readiness at once is spared both.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from math import inf
from typing import TYPE_CHECKING

from prefork.logger import log
from prefork.runtime.owner import Owner
from prefork.runtime.poller import EXCLUSIVE

if TYPE_CHECKING:
    from prefork.runtime.loop import Loop


class Wait:
    """Something to await. `arm` is called when a task suspends on it, `disarm` when that task goes on."""

    __slots__ = ()

    def __await__(self) -> Generator[Wait, None, None]:
        yield self

    def arm(self, task: Task) -> None:
        raise NotImplementedError

    def disarm(self, task: Task) -> None:
        pass

    def reclaim(self) -> bool:
        """Let the task be ended where it waits. False: another thread has the task."""
        return True


class Readiness(Wait):
    """`fd` is ready for `event`: READ or WRITE, with EXCLUSIVE for a listener that processes share. One task at a time.

    It stays registered while its task does something else, as most tasks come back for more. An EXCLUSIVE one does not,
    or the kernel would wake this process instead of one that wants to accept. Readiness is a hint, as the descriptor
    may have been another's a moment ago: a task that reads or writes must still expect EAGAIN.
    """

    __slots__ = ("event", "fd", "loop", "task")

    def __init__(self, loop: Loop, fd: int, event: int) -> None:
        self.loop = loop
        self.fd = fd
        self.event = event
        self.task: Task | None = None

    def arm(self, task: Task) -> None:
        self.loop.enlist(self)
        self.task = task

    def disarm(self, task: Task) -> None:
        self.task = None
        if self.event & EXCLUSIVE:
            self.loop.delist(self)


class Sleep(Wait):
    """The loop's clock has reached `when` (seconds)."""

    __slots__ = ("loop", "task", "when")

    def __init__(self, loop: Loop, when: float) -> None:
        self.loop = loop
        self.when = when
        self.task: Task | None = None

    def arm(self, task: Task) -> None:
        self.task = task
        self.loop.schedule(self)

    def disarm(self, task: Task) -> None:
        self.task = None  # its entry stays in the heap, and does nothing when it is due


class Parked(Wait):
    """The task's `wake()` was called. It may end without cause: the task must look again at what it waits for."""

    __slots__ = ()

    def arm(self, task: Task) -> None:
        if task.woken:
            task.resume()

    def disarm(self, task: Task) -> None:
        task.woken = False


class Pause(Wait):
    """Every other task that is ready has taken a step."""

    __slots__ = ()

    def __await__(self) -> Generator[Wait, None, None]:
        yield Pause()  # a new one each time: what would have ended an earlier one must not end this one

    def arm(self, task: Task) -> None:
        task.resume()


class Started(Wait):
    """Every task that this one has spawned with `eager` has taken its first step."""

    __slots__ = ()

    def __await__(self) -> Generator[Wait, None, None]:
        yield Started()  # a new one each time, as with Pause

    def arm(self, task: Task) -> None:
        task.loop.eager.append((task, self))


class Away(Wait):
    """Another thread has the task, and will resume it."""

    __slots__ = ()

    def arm(self, task: Task) -> None:
        pass

    def reclaim(self) -> bool:
        return False


class Handover(Wait):
    """Awaited by a task whose thread has lost the loop (threads.py). The loop only raises Deposed, and touches
    nothing.
    """

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], None] | None = None) -> None:
        self.work = work


class Deposed(BaseException):
    """Raised through the loop's frames in a thread that has lost the loop. Outside them, the thread has `task` to hand
    back and `work` to do, if any.
    """

    def __init__(self, task: Task | None, work: Callable[[], None] | None = None) -> None:
        self.task = task
        self.work = work


PARKED, PAUSE, STARTED, AWAY = Parked(), Pause(), Started(), Away()


class Task:
    """A coroutine under way; for `owner` see owner.py.

    `deadline` (loop time, seconds) may be set by the task itself, or by another while it waits. Once it has passed, it
    is lifted, and TimedOut is raised where the task waits: at the end of a turn, at most SWEEP and one turn late. That
    does not happen while the descriptor that the task waits for is ready.
    """

    __slots__ = ("coroutine", "deadline", "loop", "name", "owner", "send", "wait", "woken")

    def __init__(self, loop: Loop, coroutine: Coroutine[Wait, None, None], name: str) -> None:
        self.loop = loop
        self.coroutine = coroutine
        self.send = coroutine.send
        self.name = name
        self.deadline = inf
        self.owner: Owner | None = None
        self.wait: Wait = PAUSE
        self.woken = False

    def wake(self) -> None:
        """Resume the task if it is parked; else its next parking ends at once. No wake-up is lost."""
        if not self.woken:
            self.woken = True
            if self.wait is PARKED:
                self.resume()

    def resume(self) -> None:
        """Go on when the loop comes to the ready tasks, in this turn or the next, unless the task goes on before
        that.
        """
        self.loop.ready.append((self, self.wait, None))

    def throw(self, error: BaseException) -> None:
        """Raise `error` where the task waits, as late as `resume`, unless the task waits for something else by then."""
        self.loop.ready.append((self, self.wait, error))

    def cancel(self) -> None:
        """End the task where it waits, by GeneratorExit: its finally blocks run now. A task must not cancel itself.
        Raises AssertionError while another thread has the task.
        """
        if not self.cancel_unless_away():
            raise AssertionError(f"cancelled while another thread has it: {self.name}")

    def cancel_unless_away(self) -> bool:
        """As `cancel`; but while another thread has the task, do nothing and return False."""
        if self not in self.loop.tasks:
            return True  # it has ended, and another task may wait for the same thing now
        if not self.wait.reclaim():
            return False
        self.loop.tasks.remove(self)
        self.wait.disarm(self)
        try:
            self.coroutine.close()
        except Exception as error:
            log.error("%s crashed", self.name, exc_info=error)
        return True
