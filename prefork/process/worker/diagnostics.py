"""The diagnostics: a thread of a worker that answers the master while the loop is stuck. Owns this thread and the
descriptors that it polls. It never touches the loop.

The thread sleeps until the master asks something, has an order, or is gone. For example, the master asks where the loop
is, when that has not turned for too long. When the master is gone, a loop that turns sees that by itself, and the
worker drains; the thread only bounds the time. Orders come through this thread because nothing can keep it from
reading: neither the signal handlers of an application, nor a main thread that waits in a call.
"""

from __future__ import annotations

import inspect
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from prefork.http.exchange import Exchange, Phase
from prefork.http.message import Request
from prefork.logger import log
from prefork.observe.sink import identity
from prefork.process.messages import MOST_OF_REQUEST, NOW, WHAT, WHERE, Account
from prefork.runtime import forks
from prefork.runtime.task import Task

SHOWN = 3  # waiting requests that `place` names


def _nothing() -> None:
    pass


class Diagnostics:
    """The thread reads `asked`, and calls `explain` for WHERE, `account` for WHAT, and `hurry` for NOW. It calls `look`
    for whatever it reads, as the channel may have had no room for an ORDER. It stops reading at the end of `asked`.

    `patience` seconds after the end of `lifeline`, the thread ends the process, whatever the other threads do.
    `explain`, `account` and `patience` may be set later: before it serves, a worker has nothing to finish. `end` may be
    called where there is no lifeline.
    """

    def __init__(
        self,
        lifeline: int | None,
        asked: int,
        look: Callable[[], None] = _nothing,
        hurry: Callable[[], None] = _nothing,
    ) -> None:
        self.explain: Callable[[], None] = _nothing
        self.account: Callable[[], None] = _nothing
        self.patience = 0.0
        self._lifeline = lifeline
        self._asked = asked
        self._known = {fd: identity(fd) for fd in (lifeline, asked) if fd is not None}
        self._look = look
        self._hurry = hurry
        self._thread = threading.Thread(target=self._attend, name="prefork-diagnostics", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the thread. Nothing more can be read from `asked` then."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._asked)) as asked:  # an application may have closed it
            asked.shutdown(socket.SHUT_RD)
            self._thread.join()

    def _attend(self) -> None:
        poll = select.poll()
        for fd in self._known:
            poll.register(fd, select.POLLIN)
        while True:
            forks.leave_if_forked()
            for fd, _ in poll.poll():
                if identity(fd) != self._known[fd]:  # an application has closed it, and may have its number
                    poll.unregister(fd)
                elif fd == self._lifeline:
                    time.sleep(self.patience)
                    os._exit(os.EX_SOFTWARE)
                elif asked := _read(fd):
                    self._answer(asked)
                elif self._lifeline is None:
                    return
                else:
                    poll.unregister(fd)

    def _answer(self, asked: bytes) -> None:
        self._look()
        if NOW in asked:
            self._hurry()
        try:
            if WHAT in asked:
                self.account()
            if WHERE in asked:
                self.explain()
        except Exception as error:  # the loop may change what is read here at the same time
            log.error("cannot give diagnostics: %r", error, exc_info=error)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # the master has closed it with reports unread, or an application has
        return b""


def account(exchanges: Iterable[Exchange], now: float) -> Account:
    """The oldest request under way, without those that are upgraded. `now` is in monotonic seconds."""
    oldest, since = None, now
    for one in exchanges:
        request = one.request  # read once: the attribute may change at any moment
        if request is not None and one.phase is not Phase.UPGRADED and one.since <= since:
            oldest, since = request, one.since
    return Account() if oldest is None else Account(_line(oldest)[:MOST_OF_REQUEST], now - since)


def place(exchanges: Iterable[Exchange], asynchronous: Request | None, now: float) -> str:
    """The request that the loop is in, in words. Where the loop is in none, but in a background task, say, the requests
    that wait. `asynchronous` is the request whose asyncio task runs. `now` is in monotonic seconds.
    """
    under_way = sorted(
        (one for one in exchanges if one.request is not None and one.phase is not Phase.UPGRADED),
        key=lambda one: one.since,
    )
    for one in under_way:
        if one.request is asynchronous or (one.task is not None and _runs(one.task)):
            return f"in {_line(one.request)}, which came {now - one.since:.1f} s ago"
    if asynchronous is not None:
        return f"in {_line(asynchronous)}"
    if not under_way:
        return "outside any request"
    more = f" and {len(under_way) - SHOWN} more" if len(under_way) > SHOWN else ""
    return f"while these wait: {', '.join(_line(one.request) for one in under_way[:SHOWN])}{more}"


def _runs(task: Task) -> bool:
    return inspect.getcoroutinestate(task.coroutine) == inspect.CORO_RUNNING


def _line(request: Request | None) -> str:
    return f"{request.method} {request.target}" if request is not None else "-"
