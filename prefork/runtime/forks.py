"""Forks: what becomes of a process that an application forks. Owns the rule, and whether this is such a process.

The rule is the same however an application forks (os.fork, os.forkpty, multiprocessing, subprocess with a
`preexec_fn`), in whatever code and thread:

- Such a process holds nothing of the server. Before its own code goes on, the `on_fork` calls have closed there what
  the server has open. They only close: a shutdown or an epoll_ctl would reach the parent's. Its signals do what they do
  in any Python process. It can still write to the error log.
- It never comes back to the server. Where its code returns or raises into the server, it ends by `leave`, as a Python
  process ends: with the status of its SystemExit, or with its traceback in the error log.
- A program that it executes (exec) inherits nothing, since no descriptor of the server is inheritable (PEP 446).

The server looks at `forked` when a call of an application comes back. A process that comes back by another way (a
finalizer, a signal handler) meets a loop that ends it in place of the next step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from prefork.logger import log
from prefork.runtime.finish import finish

hosting = False  # applications run in this process, and the processes that it forks are theirs
forked = False  # an application has forked this process
arriving = threading.RLock()  # held while a new descriptor is on its way to where an `on_fork` call would find it


_calls: list[Callable[[], object]] = []
_own = 0  # the ident of the thread that forks for the server itself at the moment


class _Fork(threading.local):
    """The fork under way in this thread, if the rule applies to it."""

    mask: set[int | signal.Signals] | None = None  # the signal mask to restore
    ready = False  # no descriptor is on its way, and signals are blocked


_fork = _Fork()
_EVERY = signal.valid_signals()


def host() -> None:
    """From now on, applications run in this process, and its forks are theirs. Forgets earlier `on_fork` calls."""
    global hosting, _own
    hosting, _own = True, 0
    _calls.clear()


def on_fork(call: Callable[[], object]) -> None:
    """Have `call` made in each process that an application forks from this one, after the calls added before."""
    _calls.append(call)


@contextmanager
def server_fork() -> Iterator[None]:
    """Within the block, a process that this thread forks is one of the server."""
    global _own
    _own = threading.get_ident()
    try:
        yield
    finally:
        _own = 0


@contextmanager
def applications_code() -> Iterator[None]:
    """A block that runs code of an application. A process that this code forks ends where it would leave the block."""
    try:
        yield
    except BaseException as error:
        if forked:
            leave(error)
        raise
    if forked:
        leave()


def leave(error: BaseException | None = None) -> NoReturn:
    """End this process, which an application has forked, after its code has raised `error`, or has returned."""
    status = os.EX_SOFTWARE
    try:
        status = _told(error)
        finish()
    finally:
        os._exit(status)


def leave_if_forked() -> None:
    """For a thread of the server, before it waits. A finalizer or a profiler may have forked in the middle of its code,
    and nothing would ever wake it in the child.
    """
    if forked:
        leave()


def _told(error: BaseException | None) -> int:
    """Say how the process ends, where there is something to say. Returns its exit status."""
    if error is None:
        log.warning(
            "a process that the application has forked returned to the server's code, and ends here; "
            "the application should end it by os._exit or sys.exit"
        )
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if not isinstance(error, SystemExit):
        log.error("a process that the application has forked failed: %r", error, exc_info=error)
        return 1
    if isinstance(error.code, int):
        return error.code & 0xFF
    if error.code is not None:  # as the interpreter does
        print(error.code, file=sys.stderr)
    return 0 if error.code is None else 1


def is_under_way(frame: FrameType | None) -> bool:
    """True when a signal has come in the middle of our calls at a fork: an error of its handler would go no further."""
    while frame is not None and frame.f_code not in _CALLS_AT_A_FORK:
        frame = frame.f_back
    return frame is not None


def _before() -> None:
    """See to it that no descriptor is on its way. Block signals until the child has its own handlers: ours would write
    to pipes that the child shares with us.
    """
    if not _is_an_applications() or _fork.ready:
        return
    if _fork.mask is None:
        _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    arriving.acquire()
    signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY)
    _fork.ready = True


def _in_parent() -> None:
    with suppress(RuntimeError):  # released as often as acquired: a signal may make `_before` begin anew
        while _fork.mask is not None:
            arriving.release()
    _unblock()


def _unblock() -> None:
    _fork.ready = False
    if _fork.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)
        _fork.mask = None


def _in_child() -> None:
    global forked, hosting
    if not hosting:
        return
    applications = _is_an_applications()
    _forget_kin()
    if applications:
        forked, hosting = True, False  # from now on, its own forks are no affair of ours
        for call in _calls:
            try:
                call()
            except Exception as error:
                log.error("a process that the application has forked may hold resources of the server", exc_info=error)
        _in_parent()


def _is_an_applications() -> bool:
    """True when a process that this thread forks is none of the server's."""
    return hosting and _own != threading.get_ident()


def _forget_kin() -> None:
    """Forget the parent's multiprocessing children and the threads of its executors. Python's exit functions would end
    them or wait for them.
    """
    for module, name in (("multiprocessing.process", "_children"), ("concurrent.futures.thread", "_threads_queues")):
        if module in sys.modules:
            getattr(sys.modules[module], name).clear()


_CALLS_AT_A_FORK = {call.__code__ for call in (_before, _in_parent, _in_child)}
# Twice, as the handler of a signal may raise in the middle of a call, even before its first line. Then that call is not
# finished (register_at_fork drops the error), and the second call makes up for it. In the child no signal comes.
for _ in range(2):
    os.register_at_fork(before=_before, after_in_parent=_in_parent)
os.register_at_fork(after_in_child=_in_child)
