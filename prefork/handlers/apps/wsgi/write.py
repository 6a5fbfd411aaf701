"""write() of WSGI applications: how a response is sent while the call that makes it has not returned.

The thread of an inline call runs within the coroutine that would send the response, so that coroutine cannot go on. The
thread gives up the loop, and stays with its call. Its task goes on with another coroutine, which calls the handlers
again (runtime/owner.py). The WSGI handler then finds the task's response in `pending`, and returns it: its body is the
buffer that the call fills.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prefork.handlers.apps.response_buffer import ResponseBuffer
from prefork.handlers.apps.wsgi.call import BOUNDS, Bounds, Call
from prefork.http.message import Response
from prefork.runtime.calls import Call as AtWork
from prefork.runtime.task import Task
from prefork.runtime.threads import ThreadPool


class Inline:
    """The Opener of calls that the leader of `pool` makes. From its first write on, a call may take `timeout` seconds
    between two writes (0: any number).
    """

    def __init__(self, pool: ThreadPool, timeout: float, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.pending: dict[Task, Callable[[], Response]] = {}  # returns the task's response; for the leader alone
        self._pool = pool
        self._timeout = timeout

    def open(self, call: Call) -> ResponseBuffer:
        at_work = AtWork(call.request, self._timeout)
        buffer = self.bounds.buffer(self._pool, at_work)
        self._pool.detach(at_work, _Writing(self.pending, call, buffer))
        return buffer


class _Writing:
    """Puts the response with the body `buffer`, which `call` fills, into `pending` for the task's next coroutine."""

    def __init__(self, pending: dict[Task, Callable[[], Response]], call: Call, buffer: ResponseBuffer) -> None:
        self._pending = pending
        self._call = call
        self._buffer = buffer
        self._task: Task | None = None

    def begins(self, task: Task) -> None:
        self._task = task
        self._pending[task] = partial(self._call.response, self._buffer)

    def answered(self) -> None:
        if self._task is not None and self._pending.pop(self._task, None) is not None:
            self._buffer.abandon()  # the handlers have given another response, without asking this one

    def refused(self) -> None:
        self._buffer.abandon()


class Whole:
    """Puts a complete `response` into `pending` likewise, while the call that has made it comes to its end."""

    __slots__ = ("_pending", "_response", "_task")

    def __init__(self, pending: dict[Task, Callable[[], Response]], response: Response) -> None:
        self._pending = pending
        self._response = response

    def begins(self, task: Task) -> None:
        self._task = task
        self._pending[task] = self._take

    def _take(self) -> Response:
        return self._response

    def answered(self) -> None:
        self._pending.pop(self._task, None)

    def refused(self) -> None:
        pass
