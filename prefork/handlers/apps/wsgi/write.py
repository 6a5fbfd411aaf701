"""write() of WSGI applications: how a response begins to leave while the call that makes it has not returned.

The thread of that call is in the frames of the very coroutine that would send the response. So it steps down, and stays
with its call, while its task goes on by another coroutine, which asks the handlers again (runtime/owner.py); the WSGI
handler finds the call among those `pending`, and answers with what it puts into its buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prefork.handlers.apps.response_buffer import ResponseBuffer
from prefork.handlers.apps.wsgi.call import Call
from prefork.http.message import Response
from prefork.runtime.calls import Call as AtWork
from prefork.runtime.task import Task
from prefork.runtime.threads import ThreadPool


class Inline:
    """The Opener of calls that the leader of `pool` makes; from its first write on, each may take `timeout` seconds to
    come to the next.
    """

    def __init__(self, pool: ThreadPool, timeout: float) -> None:
        self.pending: dict[Task, Callable[[], Response]] = {}  # by whose response it gives; the leader's
        self._pool = pool
        self._timeout = timeout

    def open(self, call: Call) -> ResponseBuffer:
        at_work = AtWork(call.request, self._timeout)
        buffer = ResponseBuffer(self._pool, at_work)
        self._pool.detach(at_work, _Writing(self.pending, call, buffer))
        return buffer


class _Writing:
    """Has what `call` puts into `buffer` sent by whoever finds it among those `pending`."""

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
            self._buffer.abandon()  # the handlers have answered otherwise

    def refused(self) -> None:
        self._buffer.abandon()


class Whole:
    """Has `response` sent likewise, while the call that has given it goes on."""

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
