"""asyncio as a guest in our loop: a real asyncio event loop, whose waiting is one turn of ours.

Owns the way between the two, on one thread and without locks. asyncio waits by its selector alone, and here that is
BridgeSelector: our tasks take their steps inside asyncio's `select`, so that what is not asyncio's costs what it costs
without it. asyncio's own descriptors stand in a selector of their own, whose one descriptor our loop watches.

Imported only where there is an ASGI application, or is to be one in a copy of the process. uvloop cannot ride: it waits
in C, by libuv, and has no selector to put in its place.
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
POLICIES = sys.version_info < (3, 14)  # from then on they are deprecated, and subprocesses do not ask them
LEAST = 0.05  # seconds for asynchronous generators to end, and once more when they are cancelled
Ready = list[tuple[selectors.SelectorKey, int]]


class BridgeSelector(selectors.BaseSelector):
    """What asyncio waits with: `select` is one turn of `loop`; `after_turn` is called after each.

    Where an application makes asyncio run in a step of one of its tasks (nest_asyncio), `select` may be called within a
    turn. There, asyncio alone goes on, as our loop waits for that step's end; and `nested` says that it came to this.

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
        """In a forked process: what it takes out of here, as it closes a transport say, the parent watches on."""
        self._inner.close()
        self._inner = selectors.SelectSelector()
        self._turn = _no_turn  # asyncio's next handle ends the process


class BridgeLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop as applications see it: all of it works, save that signals are the server's."""

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Raises NotImplementedError, as asyncio does where it has none, and as libraries expect: signals are the
        server's, and so is the descriptor by which they wake the loop.
        """
        raise NotImplementedError("signals are the server's: an application under prefork cannot add a signal handler")

    def remove_signal_handler(self, sig: int) -> bool:
        """False: none has been added."""
        return False


class AsyncioBridge:
    """An asyncio event loop, `asyncio`, that rides in `loop`; made the thread's current one, as applications expect."""

    def __init__(self, loop: Loop) -> None:
        if POLICIES:  # an application that was imported before may have set another than asyncio's own
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
        """Put asyncio's policy back where an application, as it was imported, has set another: subprocesses would ask
        it, and uvloop's knows only its own loops.
        """
        if POLICIES and asyncio.get_event_loop_policy() is not self._policy:
            asyncio.set_event_loop_policy(self._policy)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """An asyncio task for `coroutine`, whose first step has been taken: most take no second one.

        To be called within a step of one of our tasks, while asyncio runs: that is in its `select`. Where another
        asyncio task is current even there, an application has made asyncio run in a step of that; then, and where it
        has done so in such a first step, which holds our loop up, the first step is asyncio's to take.
        """
        if self._selector.nested or asyncio.current_task(self.asyncio) is not None:
            return asyncio.Task(coroutine, loop=self.asyncio)
        if sys.version_info >= (3, 12):
            return asyncio.Task(coroutine, loop=self.asyncio, eager_start=True)
        # what a new task hands to call_soon is its first step
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
        """Run both loops until ours is stopped, or has no task left. Whatever an application raises, this goes on."""
        loop = self.loop
        loop.stopped = False
        self._selector.after_turn = self._stop_if_done
        try:
            while not (loop.stopped or self._alone()):
                self._run_asyncio()
        finally:
            self._selector.after_turn = _nothing

    def _run_asyncio(self) -> None:
        """Run both loops until asyncio's is stopped, or an application would end the process."""
        try:
            self.asyncio.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # which asyncio lets through
            if forks.forked:
                forks.leave(error)
            log.error("an application's asyncio task raised %r", error, exc_info=error)

    def close_in_child(self) -> None:
        """In a process that an application has forked, in whichever thread: have whoever comes back to asyncio's loop,
        as a task does that awaits something, or a thread that has done its work for a task, end there (forks.py).
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
        """Run both loops until the asyncio `coroutine` is done; its result. Raises what it raises."""
        return self.asyncio.run_until_complete(coroutine)

    async def join(self, tasks: Iterable[asyncio.Future[Any]]) -> None:
        """Wait, in a task of our loop, until these of asyncio's are done."""
        ours = self.loop.current
        for task in tasks:
            task.add_done_callback(lambda _: ours.wake())
            while not task.done():
                await PARKED

    def stacks(self) -> str:
        """Where each of asyncio's tasks waits that has got to an application, under its name. From any thread."""
        found = ((task.get_name(), awaited(task.get_coro())) for task in asyncio.all_tasks(self.asyncio))
        return "".join(f"{name}, an asyncio task:\n{where}" for name, where in found if where)

    def close(self, patience: float) -> None:
        """Cancel what asyncio still has under way, wait for it at most `patience` seconds, and end asyncio. Whatever an
        application raises, this goes on.
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
        """End these tasks, then the asynchronous generators; those have LEAST even where there is no time left."""
        until = self.asyncio.time() + patience
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        generators = self.asyncio.create_task(self.asyncio.shutdown_asyncgens())
        await asyncio.wait({generators}, timeout=max(LEAST, until - self.asyncio.time()))
        generators.cancel()  # what they still wait for, too
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
    """In the place of `call_soon_threadsafe`, by which a thread reports what has become of its work (anyio hands over
    the error itself, asyncio the concurrent.futures.Future).
    """
    forks.leave(next(filter(None, map(_failure, arguments)), None))


def _failure(result: Any) -> BaseException | None:
    """The error that `result` is, or has ended by."""
    if isinstance(result, BaseException):
        return result
    if isinstance(result, (asyncio.Future, Future)) and result.done() and not result.cancelled():
        return result.exception()
    return None


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The one that has forked this process, if it was one."""
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio tells its exception handler, as a line of the error log."""
    error = context.get("exception")
    subject = next((context[key] for key in ("task", "future", "handle", "transport") if key in context), None)
    what = context["message"] if subject is None else f"{context['message']}: {subject!r}"
    log.error("asyncio: %s", what, exc_info=error)
