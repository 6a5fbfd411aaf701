"""The witness: a thread of a worker that is there when the loop is not. Owns what it waits for, and touches no loop.

It sleeps until the master asks, which it does of a worker whose loop has not turned for too long, gives an order, or is
gone. Of that last a worker whose loop turns does not hear here first: it drains, and the witness only bounds that.
Orders come by way of this thread, as neither an application's signal handlers nor a main thread that waits in a call
can keep it from reading.
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

from prefork.http.message import Request
from prefork.http.registry import Served
from prefork.logger import log
from prefork.observe.sink import identity
from prefork.process.messages import MOST_OF_REQUEST, NOW, WHAT, WHERE, Account
from prefork.runtime import forks

SHOWN = 3  # requests, of those that are under way


def _nothing() -> None:
    pass


class Diagnostics:
    """`explain` is called, in its thread, where WHERE is read from `asked`, `account` for WHAT, and `hurry` for NOW.
    `look` is called whatever is read: there may have been no room for an ORDER behind it. It stops listening at that
    descriptor's end.

    `patience` seconds after the end of `lifeline`, the process ends, whatever its other threads are up to. Both may be
    set later: before it serves, a worker has nothing to finish. Without a lifeline it may `end`.
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
        self._thread = threading.Thread(target=self._attend, name="prefork-witness", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Hear of nothing any more, and have no thread: nothing more can be read from `asked`."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._asked)) as asked:  # else an application has closed it
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
        except Exception as error:  # the loop may be changing what is looked at, after all
            log.error("cannot give diagnostics: %r", error, exc_info=error)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # its end as well: the master has not read all that we said, or an application has closed it
        return b""


def account(connections: Iterable[Served], now: float) -> Account:
    """The oldest request under way, upgraded connections aside. `now` is in monotonic seconds."""
    oldest, since = None, now
    for one in tuple(connections):
        request = one.request  # which may be gone a moment later
        if request is not None and one.upgrade is None and one.since <= since:
            oldest, since = request, one.since
    return Account() if oldest is None else Account(_line(oldest)[:MOST_OF_REQUEST], now - since)


def place(connections: Iterable[Served], asynchronous: Request | None, now: float) -> str:
    """Which request the loop is in, in words; `asynchronous` is one whose application runs as an asyncio task. Where it
    is in none, such as in a background task, which ones wait. `now` is in monotonic seconds.
    """
    under_way = sorted(
        (one for one in tuple(connections) if one.request is not None and one.upgrade is None),
        key=lambda one: one.since,
    )
    for one in under_way:
        if one.request is asynchronous or (one.task is not None and _runs(one)):
            return f"in {_line(one.request)}, which came {now - one.since:.1f} s ago"
    if asynchronous is not None:
        return f"in {_line(asynchronous)}"
    if not under_way:
        return "outside any request"
    more = f" and {len(under_way) - SHOWN} more" if len(under_way) > SHOWN else ""
    return f"while these wait: {', '.join(_line(one.request) for one in under_way[:SHOWN])}{more}"


def _runs(connection: Served) -> bool:
    assert connection.task is not None
    return inspect.getcoroutinestate(connection.task.coroutine) == inspect.CORO_RUNNING


def _line(request: Request | None) -> str:
    return f"{request.method} {request.target}" if request is not None else "-"
