"""A stand-in for kqueue(2) where the platform has none: the names of `select` that KqueuePoller uses, over epoll.

It is NOT kqueue. It keeps to what the manual page of FreeBSD and macOS says of EVFILT_READ and EVFILT_WRITE, as far as
KqueuePoller relies on it: an event is one (ident, filter); EV_ADD of a known one changes nothing; EV_DELETE of an
unknown one is ENOENT; a descriptor that is not open is EBADF; closing a descriptor deletes its events; a filter is
level-triggered and reports an end of file by EV_EOF. Where there is a real kqueue, the tests run on that.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable
from typing import NamedTuple

import pytest

FILTER_READ, FILTER_WRITE = -1, -2
EV_ADD, EV_DELETE, EV_EOF = 0x0001, 0x0002, 0x8000


class Kevent(NamedTuple):
    ident: int
    filter: int = FILTER_READ
    flags: int = EV_ADD


class Kqueue:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._filters: dict[int, set[int]] = {}

    def control(self, changes: Iterable[Kevent] | None, max_events: int, timeout: float | None = None) -> list[Kevent]:
        for change in changes or ():
            self._apply(change)
        if max_events == 0:
            return []
        reports = [
            report
            for fd, mask in self._epoll.poll(timeout, max_events)
            for report in (self._read(fd, mask), self._write(fd, mask))
            if report is not None and report.filter in self._filters[fd]
        ]
        return reports[:max_events]

    def close(self) -> None:
        self._epoll.close()

    def _apply(self, change: Kevent) -> None:
        fd = change.ident
        os.fstat(fd)  # EBADF
        known = self._known(fd)
        if change.flags & EV_DELETE and change.filter not in known:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        wanted = known | {change.filter} if change.flags & EV_ADD else known - {change.filter}
        if not wanted:
            self._epoll.unregister(fd)
        elif not known:
            self._epoll.register(fd, self._mask(wanted))
        else:
            self._epoll.modify(fd, self._mask(wanted))
        self._filters[fd] = wanted

    def _known(self, fd: int) -> set[int]:
        """The filters on `fd`: none if the descriptor they were for has been closed, which epoll knows."""
        known = self._filters.get(fd, set())
        if known:
            try:
                self._epoll.modify(fd, self._mask(known))
            except FileNotFoundError:
                return set()
        return known

    def _mask(self, filters: set[int]) -> int:
        read = select.EPOLLIN | select.EPOLLRDHUP if FILTER_READ in filters else 0
        return read | (select.EPOLLOUT if FILTER_WRITE in filters else 0)

    def _read(self, fd: int, mask: int) -> Kevent | None:
        if not mask & (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            return None
        return Kevent(fd, FILTER_READ, EV_EOF if mask & (select.EPOLLRDHUP | select.EPOLLHUP) else 0)

    def _write(self, fd: int, mask: int) -> Kevent | None:
        if not mask & (select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR):
            return None
        return Kevent(fd, FILTER_WRITE, EV_EOF if mask & (select.EPOLLHUP | select.EPOLLERR) else 0)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `select` the names of kqueue."""
    names = {
        "kqueue": Kqueue,
        "kevent": Kevent,
        "KQ_FILTER_READ": FILTER_READ,
        "KQ_FILTER_WRITE": FILTER_WRITE,
        "KQ_EV_ADD": EV_ADD,
        "KQ_EV_DELETE": EV_DELETE,
        "KQ_EV_EOF": EV_EOF,
    }
    for name, value in names.items():
        monkeypatch.setattr(select, name, value, raising=False)
