"""Forks: what becomes of a process that an application forks. Owns the rule, and whether this is such a process.

There is one rule for all of them, whichever way an application forks (os.fork, os.forkpty, multiprocessing, subprocess
with a `preexec_fn`), in whatever code and thread:

- Such a process holds nothing of the server. Before its own code goes on, `on_fork` has closed there what the server
  has open (closed, and nothing else: a shutdown or an epoll_ctl would reach the parent's), and its signals do what they
  do in any Python process. It can go on to write to the error log.
- It never comes back to the server. Where its code returns or raises there, it ends by `leave`, as a Python process
  ends: with the status of its SystemExit, or with its traceback in the error log.
- What it executes (exec) inherits nothing, since no descriptor of the server is inheritable (PEP 446).

The calls of applications look at `forked` as they come back. Whatever comes back by another way (a finalizer, a signal
handler) meets a loop that ends the process in the place of its next step.
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

hosting = False  # applications run in this process, and what it forks is theirs
forked = False  # an application has forked this process
arriving = threading.RLock()  # held while a new descriptor is on its way to where an `on_fork` call would find it


_calls: list[Callable[[], object]] = []
_own = 0  # the thread (its ident) whose forks are the server's own at the moment


class _Fork(threading.local):
    """The fork under way in this thread, where the rule is for it."""

    mask: set[int | signal.Signals] | None = None  # to go back to
    ready = False  # nothing is on its way, and signals are blocked


_fork = _Fork()
_EVERY = signal.valid_signals()


def host() -> None:
    """From now on, applications run in this process, and what it forks is theirs. Nothing is to be closed there yet."""
    global hosting, _own
    hosting, _own = True, 0
    _calls.clear()


def on_fork(call: Callable[[], object]) -> None:
    """Have `call` made in each process that an application forks from this one, after those that came before it."""
    _calls.append(call)


@contextmanager
def own() -> Iterator[None]:
    """What this thread forks within the block is another process of the server."""
    global _own
    _own = threading.get_ident()
    try:
        yield
    finally:
        _own = 0


@contextmanager
def applications_code() -> Iterator[None]:
    """A block that runs code of an application: a process that this forks does not leave it."""
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
    """For a thread of the server, before it waits: a finalizer or a profiler may have forked in the midst of its code,
    and nobody would ever wake it in the child.
    """
    if forked:
        leave()


def _told(error: BaseException | None) -> int:
    """Say how it ends, where there is something to say; its exit status."""
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
    if error.code is not None:  # as the interpreter has it
        print(error.code, file=sys.stderr)
    return 0 if error.code is None else 1


def is_under_way(frame: FrameType | None) -> bool:
    """Whether a signal has come in the midst of these calls at a fork: what its handler raises would go no further."""
    while frame is not None and frame.f_code not in _CALLS_AT_A_FORK:
        frame = frame.f_back
    return frame is not None


def _before() -> None:
    """No descriptor is on its way, and signals wait until the child has its own handlers: ours would write to what it
    shares with us.
    """
    if not _is_an_applications() or _fork.ready:
        return
    if _fork.mask is None:
        _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    arriving.acquire()
    signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY)
    _fork.ready = True


def _in_parent() -> None:
    with suppress(RuntimeError):  # all of them are given back; `_before` may have been made to begin anew
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
        forked, hosting = True, False  # from now on, whatever it forks is no affair of ours
        for call in _calls:
            try:
                call()
            except Exception as error:
                log.error("a process that the application has forked may hold resources of the server", exc_info=error)
        _in_parent()


def _is_an_applications() -> bool:
    """Whether what this thread forks is none of the server's processes."""
    return hosting and _own != threading.get_ident()


def _forget_kin() -> None:
    """Exit functions of Python would end or await what is the parent's: its multiprocessing children, and the threads
    of its executors.
    """
    for module, name in (("multiprocessing.process", "_children"), ("concurrent.futures.thread", "_threads_queues")):
        if module in sys.modules:
            getattr(sys.modules[module], name).clear()


_CALLS_AT_A_FORK = {call.__code__ for call in (_before, _in_parent, _in_child)}
# Twice, as the handler of a signal may raise in the midst of a call, even before its first line: then the rest of that
# call is not made (register_at_fork drops what is raised), and the next one makes it. In the child no signal comes.
for _ in range(2):
    os.register_at_fork(before=_before, after_in_parent=_in_parent)
os.register_at_fork(after_in_child=_in_child)
