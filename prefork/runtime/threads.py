"""Leader/Followers: which thread runs the loop while an application call blocks. Owns the threads and their tokens.

One thread, the leader, runs the loop and calls the application inline, between `enter` and `leave`. `enter` puts an
entry into the leader's token, which is a deque. The thread that takes the entry out has the loop: the leader itself
when the call is over, or the watcher (watcher.py) when the call holds up the loop. The watcher promotes a follower,
which goes on with the loop where it stood. The former leader finishes its call, hands its task back, and follows.
(Schmidt et al., "Leader/Followers", PLoP 2000.) Calls that are known to wait are handed to followers beforehand, by
`delegate`.

The rules by which they keep out of each other's way stand in the package's docstring.
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
from prefork.runtime.watcher import PROBE, TICK, Token, Watcher
from prefork.runtime.work import Follower, Job, Production, Work, do

INLINE = 0  # a word of `counts`: calls that the leader has made, as of the watcher's last look
DELEGATED = 1  # calls that were handed to another thread beforehand, or before which the leader gave the loop away
TAKEOVERS = 2  # times that a call, or the work behind it, lost the loop
QUEUED = 3  # delegated calls that had to wait for a thread
FULL_SINCE = 4  # when the last free thread got work (monotonic milliseconds); 0 while a thread is free
LAST_CALL = 0.5  # seconds that the main thread has to come out of its call once the loop has stopped
HURRIED = 0.02  # the same in a hurried stop: it may be out of its call already, and about to end the process


class ThreadPool:
    """The leader and its followers: `threads` calls at once, for which there is one thread more. Where `threads` is 1,
    the main thread makes every call, unless the pool is pinned.

    `wanted`: there are applications to call, so the pool must be started. `pinned`: the main thread leads for ever, and
    calls are made by `delegate`; must be set before `start`. `counts` are five words, which may lie in shared memory.
    `inline` is the first of them as it is now; the handlers that enter add to it. `calls` are those without the loop,
    `jobs` those that wait for a thread; `filled` is notified when the last free thread gets work. `leader` is the ident
    of the thread that has the loop, or is in a call that has not lost it.

    All durations are seconds: `tick` and `probe` are the watcher's, and `last_call` is what the main thread has to come
    out of its call once the loop has stopped.
    """

    def __init__(
        self,
        loop: Loop,
        threads: int,
        *,
        tick: float = TICK,
        probe: float = PROBE,
        last_call: float = LAST_CALL,
    ) -> None:
        self.loop = loop
        self.threads = threads
        self.wanted = False
        self.pinned = False
        self.hurried = False  # at the stop, a main thread that is in a call is waited for HURRIED only
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
        self._token = self._main.token  # of the leader
        self._watcher = Watcher(self, tick, probe)
        self._last_call = last_call
        self._over = self._returning = False  # the loop has stopped; the main thread must lead again
        self._left = threading.Event()  # the main thread has come out of its last call
        self._failure: BaseException | None = None

    # ---- the main thread

    def start(self) -> None:
        """Make the threads, and the pipe by which the loop hears of them. Raises RuntimeError, OSError where the system
        has no more.
        """
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
        """Run the loop until it stops; returns in the main thread. Raises the error of the loop, in whichever thread
        that came.

        `abandon` is called where the main thread does not come back from its application call: in another thread, with
        the loop's error if there is one.
        """
        self._abandon = abandon
        self._lead(self._main)
        self._follow(self._main)
        self._left.set()
        if self._failure is not None:
            raise self._failure

    def close_in_child(self) -> None:
        """In a process that an application has forked, in whichever thread: no thread leads there."""
        self._token.clear()
        self.loop.callbacks.close()

    # ---- the leader, around an application call

    @property
    def is_full(self) -> bool:
        """True when no follower stands by, or calls wait for one. Nothing may be entered then: use `delegate`."""
        return bool(self.jobs) or not self.followers

    def enter(self, what: Any, timeout: float, now: float) -> Token:
        """Begin to do `what`, which may block: another thread may lead from here on. Returns the token for `leave`.
        `now` is in monotonic seconds.
        """
        token = self._token
        token.append((what, timeout, now))
        if self._watcher.parked:
            self._watcher.wake()
        return token

    def leave(self, token: Token) -> bool:
        """End what `enter` has begun. False: this thread leads no more; the task must `rejoin` or `produce` at once."""
        try:
            token.pop()
        except IndexError:
            return False
        return True

    def step_down(self, counted: bool = True) -> None:
        """In the bracket, before a wait for something that only the loop can bring: let another thread lead, unless one
        does. `counted`: as a takeover, which a call that is known to wait is not.
        """
        if self.leader == threading.get_ident():
            self.depose(counted)

    async def rejoin(self) -> None:
        """Go on in the thread that leads now. Raises Abandoned where nobody waits for the task's outcome any more, and
        Superseded after a `detach`.
        """
        await Handover()

    def detach(self, call: Call, detached: Detached) -> None:
        """In the bracket of the thing that `call` is about: let the task go on without this thread, which stays with
        `call`, unless that is refused. Either way the thread must `rejoin` afterwards, which raises Superseded where
        the task has gone on.
        """
        self.step_down()
        self.call_soon(partial(self.calls.detach, threading.get_ident(), call, detached))

    async def produce(self, call: Call, work: Work, *, leads: bool) -> None:
        """Have this very thread do `work`, which `call` describes. Where the thread leads no more, the task goes on at
        once; else it goes on when the work is done or has cost the thread the loop. `leads` is the result of `leave`.
        Raises Abandoned as `rejoin` does.
        """
        if leads:
            await Production(self, call, work)
        else:
            self.call_soon(partial(self._pass_on, call, threading.get_ident()))
            await Handover(work)

    def _pass_on(self, call: Call, thread: int) -> None:
        self.calls.begin(call, thread, self.calls.under_way[thread].task)

    async def delegate(self, call: Call, work: Work) -> None:
        """Have the next free thread do `work`, and go on when the work has called `hand_back`, or is done.

        Raises TimedOut where the task's deadline passes before a thread has begun; a deadline that passes later is
        ignored. Raises TimedOut after `turn_away`, too, and Abandoned as `rejoin` does.
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
        """Take a job back. False: a thread has begun it."""
        try:
            self.jobs.remove(job)
        except ValueError:
            return False
        del self.calls.away[job.call.task]
        return True

    def turn_away(self) -> None:
        """Raise TimedOut in the tasks whose calls wait for a thread now. Calls that come later are not refused."""
        self.is_leaving = True
        for job in tuple(self.jobs):
            job.call.task.throw(TimedOut())

    def _send_to_work(self) -> bool:
        """Have a resting thread look for jobs. False: there is none to send."""
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
        """Note that there is one follower more, or one less."""
        if self.followers:
            self.counts[FULL_SINCE] = 0
        elif not self.counts[FULL_SINCE]:
            self.counts[FULL_SINCE] = int(monotonic() * 1000)
            self.filled.notify_all()

    async def finished(self) -> None:
        """Wait until no job waits, and no call is under way but abandoned ones."""
        await self.calls.changed.wait_for(self._is_at_rest)

    def _is_at_rest(self) -> bool:
        """Counts the threads that rest, not the calls: between two jobs, a thread is in no call for a moment."""
        if not self._started:
            return True
        abandoned = sum(call.abandoned for call in self.calls.under_way.values())
        return not self.jobs and len(self.followers) + self._returning + abandoned >= self.threads

    # ---- any thread

    def call_soon(self, callback: Callback) -> None:
        """Have the leader call this. Raises ForkedError in a process that an application has forked."""
        self.loop.callbacks.add(callback)

    def hand_back(self, task: Task) -> None:
        """Have a task that is away go on, though the work for it may not be done yet."""
        self.call_soon(partial(self.calls.hand_back, task))

    # ---- the threads

    def _lead(self, follower: Follower) -> None:
        """Run the loop for as long as this thread has it, then do the work of the Handover by which it left, if any."""
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
        """Say that this thread has done its work."""
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
        """Give the loop to the main thread, and follow that."""
        self._returning = False
        self.followers.append(follower)
        self._note_fullness()
        self._main.promote()

    def _end(self, follower: Follower) -> None:
        """The loop has stopped: make the main thread return."""
        self._over = True
        if follower is not self._main:
            with suppress(RuntimeError):  # it has been sent to work, and is on its way
                self._main.lock.release()
            is_idle = self._main in self.followers  # it comes back at once then, and ends the process
            if not self._left.wait(HURRIED if self.hurried and not is_idle else self._last_call):
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
        """Work off jobs. Behind the last one, the leader hears at once that it is done and that this thread rests."""
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
        """True once the loop has stopped."""
        return self._over

    def publish(self) -> None:
        """Show others how many calls were made inline. The watcher does this, as it would cost each call 0.05 us."""
        self.counts[INLINE] = self.inline

    def held(self) -> tuple[Any, float, float] | None:
        """The entry in the leader's token, the very same object while it lies there; else None. From any thread."""
        try:
            return self._token[0]
        except IndexError:
            return None

    def depose(self, counted: bool = True) -> None:
        """Take the entry out of the leader's token, if it still lies there, and give the loop to a follower."""
        try:
            what, timeout, _ = self._token.pop()
        except IndexError:
            return
        loop = self.loop  # ours until the follower's lock is released below
        task = loop.current
        ending = what if type(what) is Ending else None
        if ending is not None:
            what = ending.what
        if type(what) is Production:
            call = what.call
            task.resume()  # so that the pieces produced so far can go out
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
