"""WSGI calls that are delegated: a thread other than the leader makes the call, from its beginning to its end.

The task for which it is made waits meanwhile (runtime/threads.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from time import monotonic

from prefork.errors import Disconnected, TimedOut
from prefork.handlers.apps.response_buffer import ResponseBuffer
from prefork.handlers.apps.wsgi.call import BOUNDS, Bounds, Call, contained
from prefork.handlers.apps.wsgi.wait_estimate import Estimate, Meter
from prefork.http.exchange import failed, release
from prefork.http.message import Response
from prefork.runtime import forks
from prefork.runtime.calls import Call as AtWork
from prefork.runtime.threads import ThreadPool


class Delegated:
    """One delegated `call`, for the current task, and its Opener. The call may take `timeout` seconds (0: any number).
    `estimate` is told how long the call would have held up the loop.
    """

    def __init__(
        self, pool: ThreadPool, call: Call, timeout: float, estimate: Estimate, bounds: Bounds = BOUNDS
    ) -> None:
        self.bounds = bounds
        self._pool = pool
        self._task = pool.loop.current
        self._call = call
        self._at_work = AtWork(call.request, timeout)
        self._estimate = estimate
        self._asked = monotonic()
        self._buffer: ResponseBuffer | None = None  # set where the response begins before the call is over
        self._writes = False  # the response has begun by a write()
        self._outcome: Response | BaseException | None = None

    # ---- the leader

    async def make(self, make: Callable[[], Iterable[bytes]]) -> None:
        """Have a thread do `make`, which calls the application; return when there is a `response`.

        Raises Abandoned where the call took too long and was given up, and TimedOut where the deadline of the task
        passes before a thread is free.
        """
        try:
            await self._pool.delegate(self._at_work, partial(self._work, make))
        except TimedOut:
            self._call.close()
            raise
        except BaseException:
            await self._dispose()
            raise

    def response(self) -> Response:
        """The response of the call. Raises an exception of the call, or Disconnected where the call was not made, as
        the client had left before a thread was free.
        """
        if self._buffer is not None:
            return self._call.response(self._buffer) if self._writes else self._call.outcome(self._buffer)
        if isinstance(self._outcome, Response):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    async def _dispose(self) -> None:
        """Close the outcome, or log it if it is an error, as no task will take it."""
        come = self._outcome
        if self._buffer is not None:
            await self._buffer.aclose()
        elif come is None:
            self._call.close()
        if isinstance(come, Response):
            await release(come.body)
        elif come is not None and self._buffer is None and not isinstance(come, Disconnected):
            failed(self._call.request, come)

    # ---- the thread of the call

    def open(self, call: Call) -> ResponseBuffer:
        self._writes = True
        return self._begin()

    def _begin(self) -> ResponseBuffer:
        """Make the buffer, and let the task send from it."""
        self._buffer = buffer = self.bounds.buffer(self._pool, self._at_work)
        self._pool.hand_back(self._task)
        return buffer

    def _work(self, make: Callable[[], Iterable[bytes]]) -> None:
        call = self._call
        call.thread = get_ident()
        if self._at_work.began - self._asked >= self.bounds.half_closed and call.request.body.client_left:
            self._outcome = Disconnected("the client left while its request waited for a thread")
            call.fail(self._outcome)
            return  # the estimate learns nothing from a call that is not made
        meter = Meter()
        try:
            result = make()
            if forks.forked:
                forks.leave()
            self._outcome = call.conclude(result)
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            call.fail(error)
            self._outcome = contained(error)
        if self._buffer is None:
            if self._outcome is None:
                call.produce(self._begin())
            elif call.thread:  # the task need not wait for the end of the application's iterator
                self._pool.hand_back(self._task)
                call.finish_behind()
        self._at_work.over = partial(self._estimate.note, meter.held_up(), True)
