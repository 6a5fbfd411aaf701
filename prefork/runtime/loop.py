"""The loop: runs coroutines, and resumes each by its descriptor, its instant, a `wake()`, or its deadline.

Owns the tasks (task.py), the poller and the clock. While a task comes back for the same descriptor, nothing is armed
anew, so a keep-alive connection costs no `epoll_ctl` per request.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from math import inf
from time import monotonic
from typing import NoReturn

from prefork.errors import TimedOut
from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.callbacks import Callbacks
from prefork.runtime.poller import EXCLUSIVE, READ, WRITE, Poller, is_ready
from prefork.runtime.task import Deposed, Handover, Pause, Readiness, Sleep, Task, Wait

SWEEP = 0.5  # seconds: how coarse deadlines are, and the shortest time between two looks through all tasks
LONGEST_POLL = 86400.0  # seconds in one system call, which counts milliseconds in 31 bits


class Loop:
    """One select event loop. `current` is the task that runs. `now` is the loop's clock (monotonic seconds), set once a
    turn, and again where another thread goes on with the turn. `sweep` is how coarse deadlines are, in seconds.

    `after_turn` holds the functions that are called at the end of each turn, before the loop may sleep (recycling.py).
    `pulse` is a word that may lie in shared memory, for other processes to read: when `now` was set last, by a clock
    that all processes share; 0 while the loop waits. `turns` counts the turns; the last one took `lasted` seconds, in
    one thread or several. `callbacks` is the way in for other threads.
    """

    def __init__(self, poller: Poller, *, sweep: float = SWEEP) -> None:
        self.current: Task
        self.poller, self.now = poller, monotonic()
        self.sweep = sweep
        self.tasks: set[Task] = set()
        self.ready: deque[tuple[Task, Wait, BaseException | None]] = deque()
        self.callbacks = Callbacks()
        self.eager: deque[tuple[Task, Wait]] = deque()  # eager tasks, and those that wait for them
        self.turns, self.lasted, self._began = 0, 0.0, self.now
        self.after_turn: list[Callable[[], None]] = []
        self.pulse: memoryview[float] = memoryview(bytearray(8)).cast("d")
        self._readers, self._writers = dict[int, Readiness](), dict[int, Readiness]()
        self._shared = set[int]()  # the descriptors of those readers that are EXCLUSIVE
        self._pending: Iterator[tuple[int, int]] = iter(())  # on self, so that the next leader can go on with it
        self._sleeping: list[tuple[float, int, Sleep]] = []
        self._order = count()
        self._next_sweep = inf
        self.stopped = False

    # ---- for tasks and their makers

    def spawn(self, coroutine: Coroutine[Wait, None, None], name: str, *, eager: bool = False) -> Task:
        """Begin a task. Its first step is taken when the loop comes to the ready tasks, in this turn or the next. An
        `eager` task takes it right behind the current step, if a descriptor has brought that about; else at the end of
        this turn, or at the very beginning of the next.
        """
        task = Task(self, coroutine, name)
        self.tasks.add(task)
        if eager:
            self.eager.append((task, task.wait))
        else:
            task.resume()
        return task

    def readable(self, fd: int, *, exclusive: bool = False) -> Readiness:
        return Readiness(self, fd, READ | EXCLUSIVE if exclusive else READ)

    def writable(self, fd: int) -> Readiness:
        return Readiness(self, fd, WRITE)

    def sleep(self, seconds: float) -> Sleep:
        return Sleep(self, monotonic() + max(seconds, 0.0))  # never in the past: other tasks must have their turn

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A deadline for the current task over a block: TimedOut is raised in it. The earliest of nested ones
        counts.
        """
        task, outer = self.current, self.current.deadline
        task.deadline = min(outer, monotonic() + seconds)  # not `now`: this turn may have begun long ago
        try:
            yield
        finally:
            task.deadline = outer

    def forget(self, fd: int) -> None:
        """Watch `fd` no more, if it is watched at all. Must be called before `fd` is closed."""
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)
        self._shared.discard(fd)
        self.poller.forget(fd)

    def stop(self) -> None:
        """Make `run` return at the end of this turn."""
        self.stopped = True

    def rest(self) -> None:
        """From now on, have the shared `pulse` say that the loop waits, however long its turns take."""
        self.pulse[0] = 0.0
        self.pulse = memoryview(bytearray(8)).cast("d")

    def close(self) -> None:
        """End every task where it waits, by GeneratorExit, save those that other threads have. Release the poller."""
        while self.tasks:
            task = next(iter(self.tasks))
            if not task.cancel_unless_away():
                self.tasks.remove(task)
        self.poller.close()

    def close_in_child(self) -> None:
        """In a process that an application has forked: release the poller, and make every way back into this loop end
        the process (forks.py). The parent's poller goes on watching.
        """
        with suppress(OSError):  # a kqueue is not inherited
            self.poller.close()
        self.after_turn[:] = [_not_here]  # in place, as this very turn may be about to call them
        names = ("turn", "finish_turn", "_timeout", "_notify", "_start", "_step", "_suspend", "_sweep")
        vars(self).update(dict.fromkeys(names, _not_here), _ended=_end)

    # ---- for Waits

    def enlist(self, wait: Readiness) -> None:
        """Watch for `wait` from now on. Raises what the poller's `watch` raises, and AssertionError where another task
        waits for that already.
        """
        table = self._writers if wait.event == WRITE else self._readers
        known = table.get(wait.fd)
        assert known is None or known.task is None, f"two tasks wait for descriptor {wait.fd}"
        if known is not wait:
            table[wait.fd] = wait
            try:
                self._register(wait.fd)
            except BaseException:
                del table[wait.fd]
                raise
            if wait.event & EXCLUSIVE:
                self._shared.add(wait.fd)

    def delist(self, wait: Readiness) -> None:
        """Watch for a reader's `wait` no more. Another reader that waits for the same descriptor by now stays."""
        if self._readers.get(wait.fd) is wait:
            del self._readers[wait.fd]
            self._shared.discard(wait.fd)
            self._register(wait.fd)

    def schedule(self, sleep: Sleep) -> None:
        heapq.heappush(self._sleeping, (sleep.when, next(self._order), sleep))

    # ---- the loop itself

    def run(self) -> None:
        """Run until `stop()` is called or no task is left."""
        self.stopped = False
        while self.tasks and not self.stopped:
            self.turn()

    def turn(self, limit: float | None = None) -> None:
        """Wait for what comes first, at most `limit` seconds. Then let every task concerned take a step."""
        callbacks, now = self.callbacks, monotonic()
        self.lasted = now - self._began
        callbacks.asleep = True
        timeout = 0.0 if callbacks.waiting else self._timeout(limit, now)
        self.pulse[0] = 0.0
        events = self.poller.poll(timeout)
        if len(events) > 1 and self._shared:
            events = self._listeners_first(events)
        self._pending = iter(events)
        self.turns += 1
        self._began = monotonic()
        self.finish_turn()

    def finish_turn(self) -> None:
        """Take the steps of this turn that have not been taken yet."""
        self.now = self.pulse[0] = now = monotonic()
        callbacks = self.callbacks
        callbacks.asleep = False
        readers, writers = self._readers, self._writers
        if self.eager:  # left by a thread that has lost the loop, or by the very end of the last turn
            self._start()
        for fd, event in self._pending:
            if event != WRITE:
                self._notify(readers, fd)
            if event != READ:
                self._notify(writers, fd)
        while self._sleeping and self._sleeping[0][0] <= now:
            sleep = heapq.heappop(self._sleeping)[2]
            if sleep.task is not None:
                self._step(sleep.task)
        if callbacks.waiting:
            callbacks.call()
        for _ in range(len(self.ready)):  # not the tasks that become ready meanwhile: descriptors come first again
            task, wait, error = self.ready.popleft()
            if task.wait is wait and task in self.tasks:
                self._step(task, error)
        if self.eager:
            self._start()
        due = self._next_sweep
        if now >= due:
            self._sweep()
        elif due > (latest := now + self.sweep):
            self._next_sweep = latest  # a task took a step, and may have set a deadline
        for call in self.after_turn:
            call()

    def _notify(self, table: dict[int, Readiness], fd: int) -> None:
        """Step the task that waits for `fd` in this table; where none does, watch `fd` no more. The hot path."""
        wait = table.get(fd)
        if wait is None:
            return
        task = wait.task
        if task is None:
            del table[fd]
            self._register(fd)
            return
        self.current = task
        try:
            wanted = task.send(None)
        except BaseException as error:
            wait.disarm(task)
            self._ended(task, error)
            if self.eager:
                self._start()
        else:
            if wanted is not wait:  # mostly it is, and nothing is left to do
                if type(wanted) is Handover:
                    raise Deposed(task, wanted.work)
                wait.disarm(task)
                self._suspend(task, wanted)
                if self.eager:
                    self._start()

    def _listeners_first(self, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same events, those of shared listeners first. epoll reports a new event behind those that it has reported
        before: a new client would have waited for a turn, and would come last in the next one.
        """
        found = dict(events)
        first = [(fd, found.pop(fd)) for fd in self._shared if fd in found]
        return [*first, *found.items()] if first else events

    def _start(self) -> None:
        """Let the eager tasks, and those that wait for them (Started), take a step."""
        while self.eager:
            task, wait = self.eager.popleft()
            if task.wait is wait and task in self.tasks:
                self._step(task)

    def _step(self, task: Task, error: BaseException | None = None) -> None:
        """Let `task` go on, with `error` raised in it if there is one."""
        self.current = task
        task.wait.disarm(task)
        try:
            wanted = task.send(None) if error is None else task.coroutine.throw(error)
        except BaseException as failure:
            self._ended(task, failure)
        else:
            if type(wanted) is Handover:
                raise Deposed(task, wanted.work)
            self._suspend(task, wanted)

    def _suspend(self, task: Task, wanted: Wait) -> None:
        task.wait = wanted
        try:
            wanted.arm(task)
        except Exception as error:  # the poller refuses, another task waits there, or it is no Wait: the task gets it
            task.wait = Pause()
            task.throw(error)

    def _ended(self, task: Task, error: BaseException) -> None:
        self.tasks.discard(task)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if not isinstance(error, StopIteration):
            log.error("%s crashed", task.name, exc_info=error)

    def _register(self, fd: int) -> None:
        """Tell the poller what the tables say about `fd`."""
        reader, writer = self._readers.get(fd), self._writers.get(fd)
        events = (reader.event if reader else 0) | (WRITE if writer else 0)
        if events:
            self.poller.watch(fd, events)
        else:
            self.poller.forget(fd)

    def _timeout(self, limit: float | None, now: float) -> float | None:
        """Seconds from `now` until something is due, at most `limit`; None when only a descriptor can end the wait."""
        if self.ready or self.eager:
            return 0.0
        due = self._next_sweep
        if self._sleeping and self._sleeping[0][0] < due:
            due = self._sleeping[0][0]
        if due == inf:
            return limit
        return min(max(0.0, due - now), LONGEST_POLL if limit is None else limit)

    def _sweep(self) -> None:
        """Raise TimedOut in every task whose deadline has passed, and note when the next sweep is due."""
        now = self.now
        for task in tuple(self.tasks):
            if task.deadline <= now and task in self.tasks:  # a task of this sweep may have cancelled another
                if isinstance(task.wait, Readiness) and is_ready(task.wait.fd, task.wait.event):
                    continue  # the next turn takes it: a long turn may have kept it waiting
                task.deadline = inf
                self._step(task, TimedOut())
        due = min((task.deadline for task in self.tasks), default=inf)
        self._next_sweep = max(due, now + self.sweep)


def _not_here(*_: object) -> NoReturn:
    """Stands in for a function of the parent's loop: ends this process."""
    forks.leave()


def _end(task: Task, error: BaseException) -> NoReturn:
    """Stands in for `_ended` of the parent's loop: ends this process as the task has ended."""
    forks.leave(None if isinstance(error, StopIteration) else error)
