"""Leader/Followers: which thread runs the loop while an application call blocks. Owns the threads and the baton.

One thread, the leader, runs the loop and calls the application inline, between `enter` and `leave`. Meanwhile its
baton lies in a deque, for whoever takes it: the leader itself when the call is over, or the watcher when the same call
has held it for a whole TICK. The watcher promotes a follower, which goes on with the loop where it stood; the former
leader finishes its call, hands its task back, and follows. (Schmidt et al., "Leader/Followers", PLoP 2000.)

Why the loop's state needs no lock: it is touched by the leader only, and there is one leader at any time.

- A deque's `append` and `pop` are atomic, and of two who pop its one element, one gets it. So for each bracket exactly
  one of `leave` and `_depose` finds the baton: leadership stays, or it goes, never both.
  Each thread has a deque of its own, or a former leader's `leave` would find the baton of the one that leads by then.
- While the baton lies there the leader is inside the bracket, in code that knows nothing of the loop. Whoever takes it
  then may touch the loop in the leader's place, and hands it to one follower by releasing that one's lock, once.
- A thread whose `leave` fails has no way back into the loop's frames but `rejoin` and `produce`, which suspend the task
  by a Handover. The loop answers that by Deposed, before it touches anything; that unwinds the thread to `_lead`. Only
  then, when the task's coroutine does not run any more, is the task posted to the new leader.
- Posts go through a deque, and a pipe that the loop reads. Who posts appends first and looks at the alarm afterwards;
  who reads empties the pipe, then silences the alarm, then looks at the deque: so none is missed, and an alarm that is
  on is never without its byte in the pipe.
- The leader enters a bracket only while a follower stands by, and only takers of the baton use followers up: so there
  is one to promote. A thread becomes a follower before it posts: so who waits for one is woken after there is one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

from prefork.errors import Abandoned
from prefork.kernel.loop import AWAY, PARKED, SWEEP, Deposed, Handover, Loop, Task, Wait

TICK = 0.005  # seconds: a call that was there at two of the watcher's looks in a row blocks the loop
SWITCH = 0.0005  # seconds that a call which computes keeps the interpreter, when the leader comes back from the system
IDLE_TICKS = 20  # looks without any call, after which the watcher parks: an idle process makes no wake-ups
PATIENCE = 0.5  # seconds that the main thread has to come out of its call once the loop has stopped

Work = Callable[[], None]
Baton = deque[tuple[Any, float]]  # what the leader does, and its timeout; empty where it does nothing, or leads no more


class Call:
    """A call without the loop: `what` is being done by `thread` (its ident) since `started` (monotonic seconds).

    After `timeout` seconds (0: never) it is overdue, and `abandoned`.
    """

    __slots__ = ("abandoned", "started", "thread", "timeout", "what")

    def __init__(self, what: Any, thread: int, started: float, timeout: float) -> None:
        self.what = what
        self.thread = thread
        self.started = started
        self.timeout = timeout
        self.abandoned = False


class _Seat:
    """A thread's place among the followers. Whoever takes it from there gives it `work`, or the loop, by `lock`."""

    __slots__ = ("baton", "lock", "thread", "work")

    def __init__(self, baton: Baton) -> None:
        self.baton = baton
        self.lock = threading.Lock()
        self.lock.acquire()
        self.thread = 0  # its ident, once it runs
        self.work: Work | None = None


class Crew:
    """The leader and its followers: `threads` calls at once, for which there is one thread more.

    `wanted`: there are applications to call, so it is to be started. `pinned`: the main thread leads for ever, and
    calls are made by `delegate`; to be set before `start`. `takeovers` and `queued` (calls that had
    to wait for a thread) are counts; `changed` is called by the leader when they have changed. `overdue` is called by
    the leader for each call that is.
    """

    def __init__(self, loop: Loop, threads: int) -> None:
        self.loop = loop
        self.threads = threads
        self.wanted = False
        self.pinned = False
        self.takeovers = 0
        self.queued = 0
        self.changed: Callable[[], None] = _nothing
        self.overdue: Callable[[Call], None] = _nothing
        self.away: dict[Task, Call] = {}
        self.followers: deque[_Seat] = deque()
        self.queue: deque[Task] = deque()
        self._leader = threading.get_ident()
        self._parked = False  # the watcher
        self._rouse = threading.Lock()
        self._rouse.acquire()
        self._posts: deque[Callable[[], object]] = deque()
        self._alarmed = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._main = self._seat()
        self._baton = self._main.baton  # the leader's
        self._seats: list[_Seat] = []
        self._threads: list[threading.Thread] = []
        self._over = False
        self._left = threading.Event()  # the main thread has
        self._failure: BaseException | None = None

    # ---- the main thread

    def start(self) -> None:
        """Make the threads. Raises RuntimeError where the system has no more."""
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        self.loop.spawn(self._hear(), "hearing from other threads")
        self._guard = self.loop.spawn(self._guard_calls(), "watching over application calls")
        for number in range(self.threads):
            seat = self._seat()
            self._begin(f"prefork-{number + 1}", self._follow, seat)
            self._seats.append(seat)
            self.followers.append(seat)
        if not self.pinned:
            self._begin("prefork-watcher", self._watch)

    def _seat(self) -> _Seat:
        return _Seat(deque())

    def _begin(self, name: str, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def run(self, abandon: Callable[[], None]) -> None:
        """Run the loop until it stops; returns in the main thread. Raises what the loop raised, in whichever thread.

        `abandon` is called, in another thread, where the main thread does not return from its application call.
        """
        self._abandon = abandon
        self._lead(self._main)
        self._follow(self._main)
        self._left.set()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the threads, once the loop has stopped and no call is under way."""
        self._over = True
        for seat in self._seats:
            seat.lock.release()
        self._wake_watcher()
        for thread in self._threads:
            thread.join()
        os.close(self._reading)
        os.close(self._writing)
        sys.setswitchinterval(self._switch)

    # ---- the leader, around an application call

    async def admit(self) -> None:
        """Wait, first come, first served, until a follower stands by."""
        if self.followers and not self.queue:
            return
        task = self.loop.current
        self.queued += 1
        self.changed()
        self.queue.append(task)
        try:
            while not (self.followers and self.queue[0] is task):
                await PARKED
        finally:
            self.queue.remove(task)
            self._call_next()

    def _call_next(self) -> None:
        if self.queue and self.followers:
            self.queue[0].wake()

    def enter(self, what: Any, timeout: float) -> Baton:
        """Begin to do `what`, which may block: somebody else may lead from here on. What `leave` is to be given."""
        baton = self._baton
        baton.append((what, timeout))
        if self._parked:
            self._wake_watcher()
        return baton

    def leave(self, baton: Baton) -> bool:
        """It is done. False: this thread leads no more, and the task has to `rejoin` at once."""
        try:
            baton.pop()
        except IndexError:
            return False
        return True

    def step_down(self) -> None:
        """In the bracket, before waiting for what only the loop can bring: let another thread lead, unless one does."""
        if self._leader == threading.get_ident():
            self._depose()

    async def rejoin(self) -> None:
        """Go on in the thread that leads now. Raises Abandoned where nobody waits for the task's outcome any more."""
        await Handover()
        self._resumed()

    def _resumed(self) -> None:
        call = self.away.pop(self.loop.current)
        if call.abandoned:
            raise Abandoned(f"after {call.timeout:g} s")

    async def produce(self, work: Work, *, leads: bool) -> None:
        """Have this very thread do `work`, which must not raise; go on at once where it does not lead any more, else
        when the work is done or has lost it the loop. `leads` is what `leave` said.
        """
        if leads:
            await _Production(self, work)
        else:
            await Handover(work)
            self._resumed()

    async def delegate(self, what: Any, work: Work, timeout: float) -> None:
        """Have a follower do `work`, and go on when that posts this task's `resume`. To be called after `admit`.

        Raises Abandoned as `rejoin` does.
        """
        seat = self.followers.pop()
        self.away[self.loop.current] = Call(what, seat.thread, monotonic(), timeout)
        self._guard.wake()
        seat.work = work
        seat.lock.release()
        await AWAY
        self._resumed()

    # ---- any thread

    def post(self, call: Callable[[], object]) -> None:
        """Have the leader call this, and look after those who wait for a thread."""
        self._posts.append(call)
        if not self._alarmed:
            self._alarmed = True
            os.write(self._writing, b"!")

    # ---- the threads

    def _lead(self, seat: _Seat) -> None:
        """Run the loop for as long as this thread has it; its seat is free again when this returns."""
        self._leader = threading.get_ident()
        self._baton = seat.baton
        loop = self.loop
        try:
            loop.finish_turn()
            while loop.tasks and not loop.stopped:
                loop.turn()
        except Deposed as lost:
            task, work = lost.task, lost.work
        except BaseException as error:
            self._failure = error
            self._end(seat)
            return
        else:
            self._end(seat)
            return
        if task is not None and work is not None:
            self.post(task.resume)
            self._work(seat, work)
        else:
            self.followers.append(seat)
            self.post(self._call_next if task is None else task.resume)

    def _work(self, seat: _Seat, work: Work) -> None:
        work()
        self.followers.append(seat)
        self.post(self._call_next)

    def _end(self, seat: _Seat) -> None:
        """The loop has stopped: the main thread is to return."""
        self._over = True
        if seat is not self._main:
            self._main.lock.release()
            if not self._left.wait(PATIENCE):
                self._abandon()

    def _follow(self, seat: _Seat) -> None:
        seat.thread = threading.get_ident()
        while not self._over:
            seat.lock.acquire()
            if self._over:
                return
            work, seat.work = seat.work, None
            if work is None:
                self._lead(seat)
            else:
                self._work(seat, work)

    async def _hear(self) -> None:
        """Do what other threads have posted."""
        readable = self.loop.readable(self._reading)
        while True:
            await readable
            os.read(self._reading, 4096)
            self._alarmed = False
            while self._posts:
                self._posts.popleft()()
            self._call_next()
            self.changed()

    async def _guard_calls(self) -> None:
        """Tell of those that take too long."""
        while True:
            while not self.away:
                await PARKED
            await self.loop.sleep(SWEEP)
            for call in tuple(self.away.values()):
                if call.timeout and not call.abandoned and self.loop.now - call.started >= call.timeout:
                    call.abandoned = True
                    self.overdue(call)

    # ---- the watcher

    def _watch(self) -> None:
        seen: object = None
        idle = 0
        while not self._over:
            sleep(TICK)
            try:
                what = self._baton[0]
            except IndexError:
                seen = None
                idle += 1
                if idle >= IDLE_TICKS:
                    idle = 0
                    self._park()
                continue
            idle = 0
            if what is seen:
                self._depose()
                seen = None
            else:
                seen = what

    def _park(self) -> None:
        self._parked = True
        if not self._baton:
            self._rouse.acquire()
        self._parked = False

    def _wake_watcher(self) -> None:
        self._parked = False
        with suppress(RuntimeError):  # it is awake already
            self._rouse.release()

    def _depose(self) -> None:
        """Take the baton, if it still lies there, and give the loop to a follower."""
        try:
            what, timeout = self._baton.pop()
        except IndexError:
            return
        loop = self.loop  # which is ours until the release below
        task = loop.current
        if type(what) is _Production:
            task.resume()  # what has been produced so far can go out
        else:
            task.wait.disarm(task)
            task.wait = AWAY
            self.away[task] = Call(what, self._leader, monotonic(), timeout)
            self._guard.wake()
        self.takeovers += 1
        self.changed()
        self.followers.pop().lock.release()


class _Production(Wait):
    """Work that the leader does for a task which is suspended meanwhile, so that another leader can resume it."""

    __slots__ = ("crew", "work")

    def __init__(self, crew: Crew, work: Work) -> None:
        self.crew = crew
        self.work = work

    def arm(self, task: Task) -> None:
        baton = self.crew.enter(self, 0)
        self.work()
        if not self.crew.leave(baton):
            raise Deposed(None)  # the task goes on already
        task.resume()


def _nothing(*_: object) -> None:
    pass
