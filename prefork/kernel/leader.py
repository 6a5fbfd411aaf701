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
- The leader enters a bracket only while a follower stands by, and only who has the loop uses followers up: so there is
  one to promote. A thread that is done with its work posts so; the leader takes it among the followers then, and wakes
  who waits for one.
- Where one call is made at a time, the main thread makes it, as applications' signal handlers and alarms want it: while
  another thread leads, it has no follower, so it makes no call. When it has heard that the main thread is done, it
  gives the loop back at the end of that turn, and follows.
- A thread can do without its task before its call is over, and so before its frames have let go of the coroutine: the
  leader has the task go on by another one (`detach`). The former is kept with the call, so that it is ended by the
  leader, when the thread has posted that it is done, and not in that thread, as its last reference goes. Where the
  outcome was there before the thread lost the loop (Ending), whoever takes the baton sees to that.
- The same goes for the calls (calls.py): a thread without the loop is noted by who takes the baton from it, or gives it
  work, and struck out when it posts that it is done. While the leader runs the loop, it is in no call: so the calls
  noted are all there are, and the bracket itself notes nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import sleep
from typing import Any

from prefork.errors import ForkedError
from prefork.kernel import forks
from prefork.kernel.calls import Call, Calls, Detached, Ending
from prefork.kernel.loop import AWAY, PARKED, Deposed, Handover, Loop, Task, Wait
from prefork.logger import log

TICK = 0.005  # seconds: a call that was there at two of the watcher's looks in a row blocks the loop
SWITCH = 0.0005  # seconds that a call which computes keeps the interpreter, when the leader comes back from the system
IDLE_TICKS = 20  # looks without any call, after which the watcher parks: an idle process makes no wake-ups
PATIENCE = 0.5  # seconds that the main thread has to come out of its call once the loop has stopped

Work = Callable[[], None]
Baton = deque[tuple[Any, float]]  # what the leader does, and its timeout; empty where it does nothing, or leads no more


class _Seat:
    """A thread's place among the followers. Whoever takes it from there gives it `work`, or the loop, by `lock`."""

    __slots__ = ("baton", "lock", "thread", "work")

    def __init__(self, baton: Baton) -> None:
        self.baton = baton
        self.lock = threading.Lock()
        self.lock.acquire()
        self.thread = threading.get_ident()  # its own, once it runs
        self.work: Work | None = None


class Crew:
    """The leader and its followers: `threads` calls at once, for which there is one thread more. Where that is one, it
    is always made by the main thread, unless the crew is pinned.

    `wanted`: there are applications to call, so it is to be started. `pinned`: the main thread leads for ever, and
    calls are made by `delegate`; to be set before `start`. `takeovers` and `queued` (calls that had to wait for a
    thread) are counts; `changed` is called by the leader when they have changed. `calls` are those without the loop;
    `leader` is the thread (its ident) that has the loop, or is in a call by which it has not lost it.
    """

    def __init__(self, loop: Loop, threads: int) -> None:
        self.loop = loop
        self.threads = threads
        self.wanted = False
        self.pinned = False
        self.hurried = False  # in the end the main thread is not waited for
        self.takeovers = 0
        self.queued = 0
        self.changed: Callable[[], None] = _nothing
        self.calls = Calls(loop)
        self.followers: deque[_Seat] = deque()
        self.queue: deque[Task] = deque()
        self.leader = threading.get_ident()
        self._reading = self._writing = -1
        self._parked = False  # the watcher
        self._rouse = threading.Lock()
        self._rouse.acquire()
        self._posts: deque[Callable[[], object]] = deque()
        self._alarmed = False
        self._main = self._seat()
        self._baton = self._main.baton  # the leader's
        self._over = self._returning = False  # the loop has stopped; the main thread is to lead again
        self._left = threading.Event()  # the main thread has
        self._failure: BaseException | None = None

    # ---- the main thread

    def start(self) -> None:
        """Make the threads, and what they are heard by. Raises RuntimeError, OSError where the system has no more."""
        sys.setswitchinterval(SWITCH)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.loop.spawn(self._hear(), "hearing from other threads")
        self.loop.spawn(self.calls.guard(), "watching over application calls")
        for number in range(self.threads):
            seat = self._seat()
            thread = threading.Thread(target=self._follow, args=[seat], name=f"prefork-{number + 1}", daemon=True)
            thread.start()
            assert thread.ident is not None
            seat.thread = thread.ident
            self.followers.append(seat)
        if not self.pinned:
            threading.Thread(target=self._watch, name="prefork-watcher", daemon=True).start()

    def _seat(self) -> _Seat:
        return _Seat(deque())

    def run(self, abandon: Callable[[BaseException | None], None]) -> None:
        """Run the loop until it stops; returns in the main thread. Raises what the loop raised, in whichever thread.

        `abandon` is called in another thread, with that error if there is one, where the main thread does not return
        from its application call.
        """
        self._abandon = abandon
        self._lead(self._main)
        self._follow(self._main)
        self._left.set()
        if self._failure is not None:
            raise self._failure

    def close_in_child(self) -> None:
        """In a process that an application has forked, in whichever thread: nobody leads there."""
        self._baton.clear()
        self.changed = _nothing
        for end in (self._reading, self._writing):
            if end >= 0:
                os.close(end)

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
        if self.leader == threading.get_ident():
            self._depose()

    async def rejoin(self) -> None:
        """Go on in the thread that leads now. Raises Abandoned where nobody waits for the task's outcome any more."""
        await Handover()

    def detach(self, call: Call, detached: Detached) -> None:
        """In the bracket of what `call` is about: let the task go on without this thread, which stays with `call`,
        unless that is refused. Either way the thread has to `rejoin` after it: raises Superseded, or as that does.
        """
        self.step_down()
        self.post(partial(self.calls.detach, threading.get_ident(), call, detached))

    async def produce(self, call: Call, work: Work, *, leads: bool) -> None:
        """Have this very thread do `work`, which is then what it is at; go on at once where it does not lead any more,
        else when the work is done or has lost it the loop. `leads` is what `leave` said. Raises Abandoned as `rejoin`.
        """
        if leads:
            await _Production(self, call, work)
        else:
            self.post(partial(self._pass_on, call, threading.get_ident()))
            await Handover(work)

    def _pass_on(self, call: Call, thread: int) -> None:
        self.calls.begin(call, thread, self.calls.under_way[thread].task)

    async def delegate(self, call: Call, work: Work) -> None:
        """Have a follower do `work`, and go on when that has called `hand_back`, or is done. To be called after
        `admit`. Raises Abandoned as `rejoin` does.
        """
        seat, task = self.followers.pop(), self.loop.current
        self.calls.away[task] = call
        self.calls.begin(call, seat.thread, task)
        seat.work = work
        seat.lock.release()
        await AWAY

    # ---- any thread

    def post(self, call: Callable[[], object]) -> None:
        """Have the leader call this, and look after those who wait for a thread. Raises ForkedError."""
        if forks.forked:
            raise ForkedError
        self._posts.append(call)
        if not self._alarmed:
            self._alarmed = True
            os.write(self._writing, b"!")

    def hand_back(self, task: Task) -> None:
        """Have a task that is away go on, though the work for it may not be done yet."""
        self.post(partial(self.calls.hand_back, task))

    # ---- the threads

    def _lead(self, seat: _Seat) -> None:
        """Run the loop for as long as this thread has it, then do the work that it lost the loop with, if any."""
        self.leader = threading.get_ident()
        self._baton = seat.baton
        loop = self.loop
        try:
            loop.finish_turn()
            while loop.tasks and not (loop.stopped or self._returning):
                loop.turn()
        except Deposed as lost:
            task, work = lost.task, lost.work
        except BaseException as error:
            self._failure = error
            self._end(seat)
            return
        else:
            if self._returning and loop.tasks and not loop.stopped:
                self._return(seat)
            else:
                self._end(seat)
            return
        if task is not None and work is not None:
            self.hand_back(task)
            _do(work)
        self._rest(seat)

    def _rest(self, seat: _Seat) -> None:
        """This thread has done its work."""
        self.post(partial(self._take_back, seat))

    def _take_back(self, seat: _Seat) -> None:
        if seat is self._main and self.threads == 1:
            self._returning = True
        else:
            self.followers.append(seat)
        self.calls.end(seat.thread)

    def _return(self, seat: _Seat) -> None:
        """Give the loop to the main thread, which follows, and follow it."""
        self._returning = False
        self.followers.append(seat)
        self._call_next()
        self._main.lock.release()

    def _end(self, seat: _Seat) -> None:
        """The loop has stopped: the main thread is to return."""
        self._over = True
        if seat is not self._main:
            self._main.lock.release()
            if not self._left.wait(0.0 if self.hurried else PATIENCE):
                self._abandon(self._failure)

    def _follow(self, seat: _Seat) -> None:
        while not self._over:
            seat.lock.acquire()
            if self._over:
                return
            work, seat.work = seat.work, None
            if work is None:
                self._lead(seat)
            else:
                _do(work)
                self._rest(seat)

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
        ending = what if type(what) is Ending else None
        if ending is not None:
            what = ending.what
        if type(what) is _Production:
            call = what.call
            task.resume()  # what has been produced so far can go out
        else:
            call = self.calls.away[task] = Call(what, timeout)
            task.wait.disarm(task)
            task.wait = AWAY
        self.calls.begin(call, self.leader, task)
        if ending is not None:
            self.calls.detach(self.leader, Call(what, timeout), ending.detached)
        self.takeovers += 1
        self.changed()
        self.followers.pop().lock.release()


class _Production(Wait):
    """Work that the leader does for a task which is suspended meanwhile, so that another leader can resume it."""

    __slots__ = ("call", "crew", "work")

    def __init__(self, crew: Crew, call: Call, work: Work) -> None:
        self.crew = crew
        self.call = call
        self.work = work

    def arm(self, task: Task) -> None:
        baton = self.crew.enter(self, 0)
        _do(self.work)
        if not self.crew.leave(baton):
            raise Deposed(None)  # the task goes on already
        task.resume()


def _do(work: Work) -> None:
    """Whatever the work raises, its thread goes on: it may have lost the loop, and must not run into it."""
    try:
        work()
    except BaseException as error:
        if forks.forked:
            forks.leave(error)
        log.error("an application's thread went wrong: %r", error, exc_info=error)
    if forks.forked:
        forks.leave()


def _nothing() -> None:
    pass
