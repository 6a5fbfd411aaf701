"""Pollers: which descriptors are ready. One interface over select, poll, epoll and kqueue; each owns its interest list.

    watch(fd, events)   report `events` on `fd` from now on, in place of those watched there before
    forget(fd)          report nothing more; call it before the descriptor is closed
    poll(timeout)       [(fd, events)] that are ready now; waits at most `timeout` seconds, for ever when None
    close()

Every poller is level-triggered: readiness that is not dealt with is reported again. An error or a hang-up is reported
whatever is watched: as READ or WRITE, or as ERROR. The next read or write then tells which it is.
"""

from __future__ import annotations

import errno
import math
import os
import select
from collections.abc import Callable
from typing import Any, Protocol

READ = 1  # the numbers of poll(2) and epoll(7), so that those two need no translation
WRITE = 4
ERROR = 8 | 16  # POLLERR | POLLHUP
EXCLUSIVE = 1 << 28  # EPOLLEXCLUSIVE: wake one of the processes that wait for this listener; ignored elsewhere
FD_SETSIZE = 1024  # select(2) knows the descriptors below this number

_KQUEUE: Any = select  # not typed by `select` itself: the type checker's platform may have no kqueue

Events = list[tuple[int, int]]


def is_ready(fd: int, event: int) -> bool:
    """True when the open descriptor `fd` is ready for `event` (READ or WRITE), or has an error, now: one poll(2)."""
    look = select.poll()
    look.register(fd, select.POLLOUT if event & WRITE else select.POLLIN)
    return any(not found & select.POLLNVAL for _, found in look.poll(0))


class Poller(Protocol):
    """The interface that the loop needs. `limit` is the first descriptor that cannot be watched, or None."""

    limit: int | None

    def watch(self, fd: int, events: int) -> None: ...
    def forget(self, fd: int) -> None: ...
    def poll(self, timeout: float | None, /) -> Events: ...
    def close(self) -> None: ...


class SelectPoller:
    """select(2): everywhere, slow with many descriptors, and blind from descriptor FD_SETSIZE on."""

    limit: int | None = FD_SETSIZE

    def __init__(self) -> None:
        self._readers: set[int] = set()
        self._writers: set[int] = set()

    def watch(self, fd: int, events: int) -> None:
        """Raises OSError: EMFILE from FD_SETSIZE on, where select(2) would write out of bounds; EBADF if it is
        closed.
        """
        if fd >= FD_SETSIZE:
            limit = FD_SETSIZE - 1
            raise OSError(errno.EMFILE, f"select cannot watch descriptor {fd}: its limit is {limit}; use poll or epoll")
        os.fstat(fd)  # EBADF now, to the caller: later, select would raise it about all descriptors at once
        (self._readers.add if events & READ else self._readers.discard)(fd)
        (self._writers.add if events & WRITE else self._writers.discard)(fd)

    def forget(self, fd: int) -> None:
        self._readers.discard(fd)
        self._writers.discard(fd)

    def poll(self, timeout: float | None) -> Events:
        readable, writable, _ = select.select(self._readers, self._writers, (), timeout)
        ready = dict.fromkeys(readable, READ)
        for fd in writable:
            ready[fd] = ready.get(fd, 0) | WRITE
        return list(ready.items())

    def close(self) -> None:
        self._readers.clear()
        self._writers.clear()


class PollPoller:
    """poll(2): any descriptor, but the kernel walks the whole list each time."""

    limit: int | None = None

    def __init__(self) -> None:
        self._set = select.poll()
        self._watched: set[int] = set()

    def watch(self, fd: int, events: int) -> None:
        self._set.register(fd, events & (READ | WRITE))
        self._watched.add(fd)

    def forget(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.remove(fd)
            self._set.unregister(fd)

    def poll(self, timeout: float | None) -> Events:
        # poll counts milliseconds: rounded down, the last one before a deadline would be a busy loop
        return self._set.poll(None if timeout is None else math.ceil(timeout * 1000))

    def close(self) -> None:
        for fd in tuple(self._watched):
            self.forget(fd)


class EpollPoller:
    """epoll(7): Linux. Its cost grows with the ready descriptors, not with the watched ones."""

    limit: int | None = None

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, int] = {}
        self.poll: Callable[[float | None], Events] = self._epoll.poll  # the hot path calls C directly

    def watch(self, fd: int, events: int) -> None:
        known = self._watched.get(fd)
        if known is not None and (known | events) & EXCLUSIVE:
            self.forget(fd)  # EPOLL_CTL_MOD is EINVAL where EPOLLEXCLUSIVE is concerned
            known = None
        if known is None:
            self._epoll.register(fd, events)
        elif known != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = events

    def forget(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._watched.clear()
        self._epoll.close()


class KqueuePoller:
    """kqueue(2): macOS and the BSDs. Reading and writing are two filters there, each with an end of file of its own."""

    limit: int | None = None

    def __init__(self) -> None:
        self._kqueue = _KQUEUE.kqueue()
        self._watched: dict[int, int] = {}

    def watch(self, fd: int, events: int) -> None:
        events &= READ | WRITE
        self._change(fd, self._watched.get(fd, 0), events)
        self._watched[fd] = events

    def forget(self, fd: int) -> None:
        self._change(fd, self._watched.pop(fd, 0), 0)

    def _change(self, fd: int, known: int, events: int) -> None:
        changes = [
            _KQUEUE.kevent(fd, kind, _KQUEUE.KQ_EV_ADD if events & flag else _KQUEUE.KQ_EV_DELETE)
            for flag, kind in ((READ, _KQUEUE.KQ_FILTER_READ), (WRITE, _KQUEUE.KQ_FILTER_WRITE))
            if (known ^ events) & flag
        ]
        if changes:
            self._kqueue.control(changes, 0, 0)

    def poll(self, timeout: float | None) -> Events:
        ready: dict[int, int] = {}
        for event in self._kqueue.control(None, max(1, 2 * len(self._watched)), timeout):
            flag = WRITE if event.filter == _KQUEUE.KQ_FILTER_WRITE else READ
            ready[event.ident] = ready.get(event.ident, 0) | flag
        return list(ready.items())

    def close(self) -> None:
        self._watched.clear()
        self._kqueue.close()


_KNOWN: dict[str, Callable[[], Poller]] = {
    "epoll": EpollPoller,
    "kqueue": KqueuePoller,
    "poll": PollPoller,
    "select": SelectPoller,
}
POLLERS = {name: poller for name, poller in _KNOWN.items() if hasattr(select, name)}
"""The pollers of this platform by their names in the configuration, best first."""


def make_poller(name: str = "auto") -> Poller:
    """The poller called `name`, or the platform's best for "auto". Raises LookupError that names those there are."""
    if name == "auto":
        name = next(iter(POLLERS))
    if name not in POLLERS:
        raise LookupError(f"this platform has no {name}; it has {', '.join(POLLERS)}")
    return POLLERS[name]()
