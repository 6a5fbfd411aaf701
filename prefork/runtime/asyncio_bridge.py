"""asyncio inside our loop: a real asyncio event loop that waits by taking one turn of ours. Owns the way between the
two, on one thread and without locks.

asyncio waits by its selector alone, and here that is BridgeSelector. Our tasks take their steps inside asyncio's
`select`, so a task that does not use asyncio costs no more than without it. asyncio's own descriptors stand in a
selector of their own, and our loop watches the one descriptor of that selector.

Imported only where there is an ASGI application, or will be one in a copy of the process. uvloop cannot be used: it
waits in C, by libuv, and has no selector to replace.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from prefork.logger import log
from prefork.runtime import forks
from prefork.runtime.loop import Loop
from prefork.runtime.stack import awaited
from prefork.runtime.task import PARKED

T = TypeVar("T")
POLICIES = sys.version_info < (3, 14)  # from 3.14 on policies are deprecated, and subprocesses do not ask them
LEAST = 0.05  # seconds that asynchronous generators have to end, and once more after they are cancelled
Ready = list[tuple[selectors.SelectorKey, int]]


class BridgeSelector(selectors.BaseSelector):
    """The selector of asyncio's loop: `select` is one turn of `loop`, and `after_turn` is called after each.

    An application may make asyncio run in a step of one of its tasks (nest_asyncio), and then `select` may be called
    within a turn. There it serves asyncio alone, as our loop waits for the end of that step; and `nested` says that
    this has happened.

    Raises NotImplementedError where the platform's selector has no descriptor that could be watched (select, poll).
    """

    def __init__(self, loop: Loop) -> None:
        self._turn: Callable[[float | None], None] = loop.turn
        self._inner: selectors.BaseSelector = selectors.DefaultSelector()
        if not hasattr(self._inner, "fileno"):
            raise NotImplementedError("asyncio can run in the server's loop only with epoll or kqueue")
        self._ready = False
        self._turning = False
        self.nested = False
        self.after_turn: Callable[[], None] = _nothing
        self.fd = self._inner.fileno()

    async def watch(self, loop: Loop) -> None:
        """A task of `loop`: hear when a descriptor of asyncio's is ready."""
        readable = loop.readable(self.fd)
        while True:
            await readable
            self._ready = True

    def select(self, timeout: float | None = None) -> Ready:
        if self._turning:
            self.nested = True
            return self._inner.select(timeout)
        self._turning = True
        try:
            self._turn(timeout)
            self.after_turn()
        finally:
            self._turning = False
        if not self._ready:
            return []
        self._ready = False
        return self._inner.select(0)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()

    def close_in_child(self) -> None:
        """In a forked process: close our end only. The parent goes on watching each descriptor that is unregistered
        here, as when a transport closes.
        """
        self._inner.close()
        self._inner = selectors.SelectSelector()
        self._turn = _no_turn  # asyncio's next handle ends the process


class BridgeLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop as applications see it: all of it works, save that signals are the server's."""

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Raises NotImplementedError, as asyncio does where it has no signals, and as libraries expect. Signals are the
        server's, and so is the descriptor by which they wake the loop.
        """
        raise NotImplementedError("signals are the server's: an application under prefork cannot add a signal handler")

    def remove_signal_handler(self, sig: int) -> bool:
        """False: none has been added."""
        return False


class AsyncioBridge:
    """An asyncio event loop, `asyncio`, that runs inside `loop`, as the current one of its thread: applications expect
    that.
    """

    def __init__(self, loop: Loop) -> None:
        if POLICIES:  # an application imported before may have set a policy that is not asyncio's own
            asyncio.set_event_loop_policy(None)
        self.loop = loop
        self._selector = BridgeSelector(loop)
        self.asyncio = BridgeLoop(self._selector)
        self.asyncio.set_exception_handler(_report)
        asyncio.set_event_loop(self.asyncio)
        self._policy = asyncio.get_event_loop_policy() if POLICIES else None
        self._watching = loop.spawn(self._selector.watch(loop), "watching asyncio's descriptors")
        self._first: tuple[Callable[[], None], Context] | None = None

    def keep_policy(self) -> None:
        """Put asyncio's policy back if an application has set another as it was imported. Subprocesses would ask that
        one, and uvloop's policy knows only its own loops.
        """
        if POLICIES and asyncio.get_event_loop_policy() is not self._policy:
            asyncio.set_event_loop_policy(self._policy)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """An asyncio task for `coroutine`. Its first step has been taken already: most tasks take no second one.

        Must be called within a step of one of our tasks while asyncio runs, so inside its `select`. An application may
        make asyncio run in a step of an asyncio task: then that task is current even there, or the selector is
        `nested`. In these cases asyncio takes the first step itself, later.
        """
        if self._selector.nested or asyncio.current_task(self.asyncio) is not None:
            return asyncio.Task(coroutine, loop=self.asyncio)
        if sys.version_info >= (3, 12):
            return asyncio.Task(coroutine, loop=self.asyncio, eager_start=True)
        # a new task hands its first step to call_soon
        self.asyncio.call_soon = self._capture  # type: ignore[method-assign, assignment]
        try:
            task = asyncio.Task(coroutine, loop=self.asyncio)
        finally:
            del self.asyncio.call_soon
        assert self._first is not None
        step, context = self._first
        self._first = None
        context.run(step)
        return task

    def _capture(self, callback: Callable[[], None], *, context: Context) -> None:
        self._first = callback, context

    def run(self) -> None:
        """Run both loops until ours is stopped, or has no task left but the bridge's own. An application's error does
        not end it.
        """
        loop = self.loop
        loop.stopped = False
        self._selector.after_turn = self._stop_if_done
        try:
            while not (loop.stopped or self._alone()):
                self._run_asyncio()
        finally:
            self._selector.after_turn = _nothing

    def _run_asyncio(self) -> None:
        """Run both loops until asyncio's is stopped, or an application raises SystemExit or the like, which is
        logged.
        """
        try:
            self.asyncio.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # which asyncio lets through
            if forks.forked:
                forks.leave(error)
            log.error("an application's asyncio task raised %r", error, exc_info=error)

    def close_in_child(self) -> None:
        """In a process that an application has forked, in whichever thread: make every way back into asyncio's loop end
        the process (forks.py). A task comes back when it awaits something, a thread when its work for a task is done.
        """
        self._selector.close_in_child()
        task = _current_task(self.asyncio)
        ending = asyncio.Handle(lambda: forks.leave(_failure(task)), (), self.asyncio)
        inner: Any = self.asyncio  # there is no public way to these
        inner._ready.appendleft(ending)  # else the other tasks would go on here
        inner._ssock.close()
        inner._csock.close()
        self.asyncio.call_soon_threadsafe = _come_back  # type: ignore[method-assign, assignment]

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run both loops until the asyncio `coroutine` is done. Returns its result, or raises its error."""
        return self.asyncio.run_until_complete(coroutine)

    async def join(self, tasks: Iterable[asyncio.Future[Any]]) -> None:
        """Wait, in a task of our loop, until these of asyncio's are done."""
        ours = self.loop.current
        for task in tasks:
            task.add_done_callback(lambda _: ours.wake())
            while not task.done():
                await PARKED

    def stacks(self) -> str:
        """Where each asyncio task waits that is in code of an application, under its name. From any thread."""
        found = ((task.get_name(), awaited(task.get_coro())) for task in asyncio.all_tasks(self.asyncio))
        return "".join(f"{name}, an asyncio task:\n{where}" for name, where in found if where)

    def close(self, patience: float) -> None:
        """Cancel the tasks that asyncio still has, wait for them at most `patience` seconds, then at most twice LEAST
        more for asynchronous generators, and end asyncio. An application's error does not stop this.
        """
        if self.asyncio.is_closed():
            return
        tidying = self.asyncio.create_task(self._tidy_up(asyncio.all_tasks(self.asyncio), patience))
        tidying.add_done_callback(lambda _: self.asyncio.stop())
        while not tidying.done():
            self._run_asyncio()
        self._watching.cancel()
        self.loop.forget(self._selector.fd)
        self.asyncio.close()
        asyncio.set_event_loop(None)

    async def _tidy_up(self, tasks: set[asyncio.Task[Any]], patience: float) -> None:
        """End these tasks, then the asynchronous generators, which have LEAST even where there is no time left."""
        until = self.asyncio.time() + patience
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        generators = self.asyncio.create_task(self.asyncio.shutdown_asyncgens())
        await asyncio.wait({generators}, timeout=max(LEAST, until - self.asyncio.time()))
        generators.cancel()  # and whatever they still wait for
        await asyncio.wait({generators}, timeout=LEAST)

    def _alone(self) -> bool:
        return self.loop.tasks <= {self._watching}

    def _stop_if_done(self) -> None:
        if self.loop.stopped or len(self.loop.tasks) < 2:
            self.asyncio.stop()


def _nothing() -> None:
    pass


def _no_turn(timeout: float | None) -> None:
    pass


def _come_back(callback: Any, *arguments: Any, context: Context | None = None) -> NoReturn:
    """Stands in for `call_soon_threadsafe`, by which a thread reports the outcome of its work: anyio hands over the
    error itself, asyncio the concurrent.futures.Future. Ends this process.
    """
    forks.leave(next(filter(None, map(_failure, arguments)), None))


def _failure(result: Any) -> BaseException | None:
    """The error that `result` is, or has ended with; None where there is none."""
    if isinstance(result, BaseException):
        return result
    if isinstance(result, (asyncio.Future, Future)) and result.done() and not result.cancelled():
        return result.exception()
    return None


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The asyncio task that has forked this process, if one has."""
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write what asyncio tells its exception handler to the error log."""
    error = context.get("exception")
    subject = next((context[key] for key in ("task", "future", "handle", "transport") if key in context), None)
    what = context["message"] if subject is None else f"{context['message']}: {subject!r}"
    log.error("asyncio: %s", what, exc_info=error)
