"""Leader/Followers: which thread runs the loop while an application call blocks. Owns the threads and the token.

One thread, the leader, runs the loop and calls the application inline, between `enter` and `leave`. Meanwhile its
token lies in a deque, for whoever takes it: the leader itself when the call is over, or the watcher (watcher.py) when
the call holds up the loop. The watcher promotes a follower, which goes on with the loop where it stood; the former
leader finishes its call, hands its task back, and follows. (Schmidt et al., "Leader/Followers", PLoP 2000.) Calls that
are known to wait are handed to followers beforehand, by `delegate`.

Why the loop's state needs no lock: it is touched by the leader only, and there is one leader at any time.

- A deque's `append` and `pop` are atomic, and of two who pop its one element, one gets it. So for each bracket exactly
  one of `leave` and `depose` finds the token: leadership stays, or it goes, never both.
  Each thread has a deque of its own, or a former leader's `leave` would find the token of the one that leads by then.
- While the token lies there the leader is inside the bracket, in code that knows nothing of the loop. Whoever takes it
  then may touch the loop in the leader's place, and hands it to one follower by releasing that one's lock, once.
- A thread whose `leave` fails has no way back into the loop's frames but `rejoin` and `produce`, which suspend the task
  by a Handover. The loop answers that by Deposed, before it touches anything; that unwinds the thread to `_lead`. Only
  then, when the task's coroutine does not run any more, is the task posted to the new leader.
- Another thread that has something for the leader posts it (callbacks.py).
- The leader enters a bracket only while a follower stands by, and only who has the loop uses followers up: so there is
  one to promote. A thread that is done with its work posts so; the leader takes it among the followers then.
- A call that is known to wait, or for which no follower stands by, becomes a Job in a queue that all threads but the
  leader work off. A deque's `popleft` and `remove` are atomic: one thread begins a job, or the leader withdraws it.
  A thread that finds no job left posts that it rests; the leader, who alone appends jobs, sends it back to work where
  there are some by then: so none is forgotten while a thread rests.
- Where one call is made at a time, the main thread makes it, as applications' signal handlers and alarms want it: while
  another thread leads, it has no follower, so calls are jobs, which the main thread alone works off. When it has none
  left, the loop is given back to it at the end of that turn.
- A thread can do without its task before its call is over, and so before its frames have let go of the coroutine: the
  leader has the task go on by another one (`detach`). The former is kept with the call, so that it is ended by the
  leader, when the thread has posted that it is done, and not in that thread, as its last reference goes. Where the
  outcome was there before the thread lost the loop (Ending), whoever takes the token sees to that.
- The same goes for the calls (calls.py): a thread without the loop is noted by who takes the token from it, or by
  itself as it begins a job, and struck out when it is done. While the leader runs the loop, it is in no call: so the
  calls noted are all there are, and the bracket itself notes nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from prefork.errors import TimedOut
from prefork.runtime import forks
from prefork.runtime.callbacks import Callback
from prefork.runtime.calls import Call, Calls, Detached, Ending
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.runtime.task import AWAY, Deposed, Handover, Task
from prefork.runtime.watcher import Token, Watcher
from prefork.runtime.work import Follower, Job, Production, Work, do

INLINE = 0  # a word of `counts`: calls that the leader has made, as of the watcher's last look
DELEGATED = 1  # calls that were handed to another thread beforehand, or made in the main one, without the loop
TAKEOVERS = 2  # times that a call, or what came behind it, lost the loop
QUEUED = 3  # delegated calls that had to wait for a thread
FULL_SINCE = 4  # when the last thread that was free got work (monotonic milliseconds); 0 while one is free
PATIENCE = 0.5  # seconds that the main thread has to come out of its call once the loop has stopped
HURRIED = 0.02  # the same where it is not waited for: it may be out of its call already, and about to end the process


class ThreadPool:
    """The leader and its followers: `threads` calls at once, for which there is one thread more. Where that is one, it
    is always made by the main thread, unless the pool is pinned.

    `wanted`: there are applications to call, so it is to be started. `pinned`: the main thread leads for ever, and
    calls are made by `delegate`; to be set before `start`. `counts` are five words, which may lie in shared memory;
    `inline` is the first of them as it is now, for the handlers that enter to add to. `calls` are those without the
    loop, `jobs` those that wait for a thread; `filled` is rung when the last thread that was free gets work. `leader`
    is the thread (its ident) that has the loop, or is in a call by which it has not lost it.
    """

    def __init__(self, loop: Loop, threads: int) -> None:
        self.loop = loop
        self.threads = threads
        self.wanted = False
        self.pinned = False
        self.hurried = False  # in the end the main thread is not waited for, where it is in a call
        self.is_leaving = False  # `turn_away` was called
        self.counts = memoryview(bytearray(5 * 8)).cast("Q")
        self.inline = 0
        self.calls = Calls(loop)
        self.filled = Condition(loop)
        self.followers: deque[Follower] = deque()
        self.jobs: deque[Job] = deque()
        self.leader = threading.get_ident()
        self._started = False
        self._main = self._follower()
        self._token = self._main.token  # the leader's
        self._watcher = Watcher(self)
        self._over = self._returning = False  # the loop has stopped; the main thread is to lead again
        self._left = threading.Event()  # the main thread has
        self._failure: BaseException | None = None

    # ---- the main thread

    def start(self) -> None:
        """Make the threads, and what they are heard by. Raises RuntimeError, OSError where the system has no more."""
        self.loop.callbacks.open(self.loop)
        self.loop.spawn(self.calls.guard(), "watching over application calls")
        self.calls.enroll(self._main.thread)
        self._started = True
        for number in range(self.threads):
            follower = self._follower()
            thread = threading.Thread(target=self._follow, args=[follower], name=f"prefork-{number + 1}", daemon=True)
            thread.start()
            assert thread.ident is not None
            follower.thread = thread.ident
            self.calls.enroll(follower.thread)
            self.followers.append(follower)
        if not self.pinned:
            threading.Thread(target=self._watcher.run, name="prefork-watcher", daemon=True).start()

    def _follower(self) -> Follower:
        return Follower(deque())

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
        self._token.clear()
        self.loop.callbacks.close()

    # ---- the leader, around an application call

    @property
    def is_full(self) -> bool:
        """Whether no follower stands by, or calls wait for one. Nothing is to be entered then: use `delegate`."""
        return bool(self.jobs) or not self.followers

    def enter(self, what: Any, timeout: float, now: float) -> Token:
        """Begin to do `what`, which may block: somebody else may lead from here on. What `leave` is to be given. `now`
        is in monotonic seconds.
        """
        token = self._token
        token.append((what, timeout, now))
        if self._watcher.parked:
            self._watcher.wake()
        return token

    def leave(self, token: Token) -> bool:
        """It is done. False: this thread leads no more, and the task has to `rejoin` at once."""
        try:
            token.pop()
        except IndexError:
            return False
        return True

    def step_down(self, counted: bool = True) -> None:
        """In the bracket, before waiting for what only the loop can bring: let another thread lead, unless one does.
        `counted`: as a takeover, which a call that is known to wait is not.
        """
        if self.leader == threading.get_ident():
            self.depose(counted)

    async def rejoin(self) -> None:
        """Go on in the thread that leads now. Raises Abandoned where nobody waits for the task's outcome any more."""
        await Handover()

    def detach(self, call: Call, detached: Detached) -> None:
        """In the bracket of what `call` is about: let the task go on without this thread, which stays with `call`,
        unless that is refused. Either way the thread has to `rejoin` after it: raises Superseded, or as that does.
        """
        self.step_down()
        self.call_soon(partial(self.calls.detach, threading.get_ident(), call, detached))

    async def produce(self, call: Call, work: Work, *, leads: bool) -> None:
        """Have this very thread do `work`, which is then what it is at; go on at once where it does not lead any more,
        else when the work is done or has lost it the loop. `leads` is what `leave` said. Raises Abandoned as `rejoin`.
        """
        if leads:
            await Production(self, call, work)
        else:
            self.call_soon(partial(self._pass_on, call, threading.get_ident()))
            await Handover(work)

    def _pass_on(self, call: Call, thread: int) -> None:
        self.calls.begin(call, thread, self.calls.under_way[thread].task)

    async def delegate(self, call: Call, work: Work) -> None:
        """Have the next thread that is free do `work`, and go on when that has called `hand_back`, or is done.

        Raises TimedOut where the task's deadline passes before a thread has begun; that is lifted once one has. Raises
        Abandoned as `rejoin` does.
        """
        task = call.task = self.loop.current
        job = Job(self, call, work)
        self.calls.away[task] = call
        self.counts[DELEGATED] += 1
        self.jobs.append(job)
        if not self._send_to_work():
            self.counts[QUEUED] += 1
        self.calls.changed.notify_all()
        while True:
            try:
                return await job
            except TimedOut:
                if self.withdraw(job):
                    raise

    def withdraw(self, job: Job) -> bool:
        """Have a job not done. False: it has been begun."""
        try:
            self.jobs.remove(job)
        except ValueError:
            return False
        del self.calls.away[job.call.task]
        return True

    def turn_away(self) -> None:
        """No call is begun any more: TimedOut is raised in the tasks that wait for a thread."""
        self.is_leaving = True
        for job in tuple(self.jobs):
            job.call.task.throw(TimedOut())

    def _send_to_work(self) -> bool:
        """Have a thread look for jobs. False: there is none that does nothing."""
        if self._returning:
            self._returning = False
            self._main.lock.release()
        elif self.followers and (self.threads > 1 or self.pinned):
            self.followers.pop().lock.release()
            self._note_fullness()
        else:
            return False
        return True

    def _note_fullness(self) -> None:
        """Another follower stands by, or one less."""
        if self.followers:
            self.counts[FULL_SINCE] = 0
        elif not self.counts[FULL_SINCE]:
            self.counts[FULL_SINCE] = int(monotonic() * 1000)
            self.filled.notify_all()

    async def finished(self) -> None:
        """Wait until no call is under way, but those that have been abandoned."""
        await self.calls.changed.wait_for(self._is_at_rest)

    def _is_at_rest(self) -> bool:
        """A thread is between two jobs for a moment now and then, so it is those that rest which are counted."""
        if not self._started:
            return True
        abandoned = sum(call.abandoned for call in self.calls.under_way.values())
        return not self.jobs and len(self.followers) + self._returning + abandoned >= self.threads

    # ---- any thread

    def call_soon(self, callback: Callback) -> None:
        """Have the leader call this. Raises ForkedError."""
        self.loop.callbacks.add(callback)

    def hand_back(self, task: Task) -> None:
        """Have a task that is away go on, though the work for it may not be done yet."""
        self.call_soon(partial(self.calls.hand_back, task))

    # ---- the threads

    def _lead(self, follower: Follower) -> None:
        """Run the loop for as long as this thread has it, then do the work that it lost the loop with, if any."""
        self.leader = threading.get_ident()
        self._token = follower.token
        loop = self.loop
        try:
            loop.finish_turn()
            while loop.tasks and not (loop.stopped or self._returning):
                loop.turn()
        except Deposed as lost:
            task, work = lost.task, lost.work
        except BaseException as error:
            self._failure = error
            self._end(follower)
            return
        else:
            if self._returning and loop.tasks and not loop.stopped:
                self._return(follower)
            else:
                self._end(follower)
            return
        if task is not None and work is not None:
            self.hand_back(task)
            do(work)
        self._rest(follower)

    def _rest(self, follower: Follower) -> None:
        """This thread has done its work."""
        self.call_soon(partial(self._take_back, follower))

    def _take_back(self, follower: Follower) -> None:
        self.calls.end(follower.thread)
        self._let_rest(follower)

    def _let_rest(self, follower: Follower) -> None:
        if follower is self._main and self.threads == 1 and not self.pinned:
            self._returning = True
        else:
            self.followers.append(follower)
        if self.jobs:
            self._send_to_work()
        else:
            self._note_fullness()
        self.calls.changed.notify_all()

    def _return(self, follower: Follower) -> None:
        """Give the loop to the main thread, which follows, and follow it."""
        self._returning = False
        self.followers.append(follower)
        self._note_fullness()
        self._main.promote()

    def _end(self, follower: Follower) -> None:
        """The loop has stopped: the main thread is to return."""
        self._over = True
        if follower is not self._main:
            with suppress(RuntimeError):  # it has been sent to work, and is on its way
                self._main.lock.release()
            is_idle = self._main in self.followers  # it comes back at once then, and ends the process
            if not self._left.wait(HURRIED if self.hurried and not is_idle else PATIENCE):
                self._abandon(self._failure)

    def _follow(self, follower: Follower) -> None:
        while not self._over:
            forks.leave_if_forked()
            follower.lock.acquire()
            if self._over:
                return
            if follower.promoted:
                follower.promoted = False
                self._lead(follower)
            else:
                self._work(follower)

    def _work(self, follower: Follower) -> None:
        """Work off jobs. The leader hears of the last one, and that this thread rests, at once."""
        done: Call | None = None
        while not self._over:
            try:
                job = self.jobs.popleft()
            except IndexError:
                break
            if done is not None:
                self.call_soon(partial(self.calls.ended, done))
            self.calls.take_up(job.call)
            do(job.work)
            self.calls.put_down(job.call)
            done = job.call
        self.call_soon(partial(self._put_to_rest, follower, done))

    def _put_to_rest(self, follower: Follower, done: Call | None) -> None:
        if done is not None:
            self.calls.ended(done)
        self._let_rest(follower)

    # ---- the watcher

    @property
    def is_over(self) -> bool:
        """Whether the loop has stopped."""
        return self._over

    def publish(self) -> None:
        """Let others see how many calls were made inline; by the watcher, as it would cost each of them 0.05 us."""
        self.counts[INLINE] = self.inline

    def held(self) -> tuple[Any, float, float] | None:
        """The entry of what the leader does without the loop: the very same object while that lasts. In any thread."""
        try:
            return self._token[0]
        except IndexError:
            return None

    def depose(self, counted: bool = True) -> None:
        """Take the token, if it still lies there, and give the loop to a follower."""
        try:
            what, timeout, _ = self._token.pop()
        except IndexError:
            return
        loop = self.loop  # which is ours until the release below
        task = loop.current
        ending = what if type(what) is Ending else None
        if ending is not None:
            what = ending.what
        if type(what) is Production:
            call = what.call
            task.resume()  # what has been produced so far can go out
        else:
            call = self.calls.away[task] = Call(what, timeout)
            task.wait.disarm(task)
            task.wait = AWAY
        self.calls.begin(call, self.leader, task)
        if ending is not None:
            self.calls.detach(self.leader, Call(what, timeout), ending.detached)
        if counted:
            self.counts[TAKEOVERS] += 1
        follower = self.followers.pop()
        self._note_fullness()
        follower.promote()
