"""Work: what the threads of a pool do for tasks (threads.py). Owns the followers: the threads that wait for work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.calls import Call
from prefork.runtime.task import Deposed, Task, Wait
from prefork.runtime.watcher import Token

if TYPE_CHECKING:
    from prefork.runtime.threads import ThreadPool

Work = Callable[[], None]


class Follower:
    """A thread of the pool, as the leader sees it. Releasing `lock` sends it to work on jobs; `promote` lets it
    lead.
    """

    __slots__ = ("lock", "promoted", "thread", "token")

    def __init__(self, token: Token) -> None:
        self.token = token
        self.lock = threading.Lock()
        self.lock.acquire()
        self.thread = threading.get_ident()  # the ident of its own thread, once that runs
        self.promoted = False

    def promote(self) -> None:
        """Give its thread the loop."""
        self.promoted = True
        self.lock.release()


class _ForTask(Wait):
    """Awaited by a task while a thread of `pool` does `work` for it. `call` describes the work."""

    __slots__ = ("call", "pool", "work")

    def __init__(self, pool: ThreadPool, call: Call, work: Work) -> None:
        self.pool = pool
        self.call = call
        self.work = work


class Job(_ForTask):
    """The work waits for a thread, or is under way in one that does not lead."""

    __slots__ = ()

    def arm(self, task: Task) -> None:
        pass

    def reclaim(self) -> bool:
        return self.pool.withdraw(self)


class Production(_ForTask):
    """The leader does the work. Its task is suspended meanwhile, so that another leader can resume it."""

    __slots__ = ()

    def arm(self, task: Task) -> None:
        token = self.pool.enter(self, 0, monotonic())
        do(self.work)
        if not self.pool.leave(token):
            raise Deposed(None)  # the new leader has the task already
        task.resume()


def do(work: Work) -> None:
    """Do the work, and log what it raises. Its thread may have lost the loop, so no error may run into the loop."""
    try:
        work()
    except BaseException as error:
        if forks.forked:
            forks.leave(error)
        log.error("a thread of an application failed: %r", error, exc_info=error)
    if forks.forked:
        forks.leave()
