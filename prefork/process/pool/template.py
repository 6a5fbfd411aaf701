"""The template: a process that imports the application once, and forks the workers of a generation as copies of itself.
Owns both sides of that, the master's and the template's. Linux only.

A copy shares the template's memory until one of the two writes to it, and is ready in milliseconds. Each generation has
a template of its own, so a reload simply starts the next one, and the master itself never holds the application. The
template serves no clients, and after the import the server has only the main thread there, which forks the workers. A
thread that the application started when it was imported is in no worker. A process that the application started then
(multiprocessing.Manager, say) is shared by all workers. So the template outlives the workers, and ends in order: its
exit functions end such processes.

A worker must be a child of the master, which waits for its end, and not of the template. So the template forks twice.
The worker's parent ends at once, and the kernel gives the worker to the nearest ancestor that has asked for such
orphans, the master (prctl(2), PR_SET_CHILD_SUBREAPER). clone(2) with CLONE_PARENT would need one step, but bypasses the
C library, which keeps the ids and locks of a process in order for fork alone.

A worker that the master did not know would live unseen, and for ever. So a worker begins only when the master has said,
by the channel between the two, that it knows the worker. Any failure before that closes the channel, which ends the
worker.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import psutil

from prefork.errors import BootError, MalformedMessage, TimedOut
from prefork.handlers.build import load_applications
from prefork.logger import log
from prefork.net import listen
from prefork.process.machine import set_process_title
from prefork.process.messages import Report, Reporter, whereabouts
from prefork.process.pool.child import Child
from prefork.process.pool.children import GENTLE, Children, live
from prefork.process.signals import ORDERED, Dismissed, dismiss, give_back
from prefork.process.worker import app_environment, worker
from prefork.process.worker.diagnostics import Diagnostics
from prefork.runtime import forks
from prefork.runtime.finish import finish
from prefork.runtime.stack import stacks
from prefork.runtime.sync import Condition
from prefork.runtime.task import PAUSE

IGNORED_SIGNALS = (  # the master alone obeys what the whole process group is sent; it ends the template by ORDERED
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU),
)
EXIT_TIMEOUT = 5  # seconds for the template's exit functions, at most
KNOWN = b"k"  # the master has adopted the worker that reads this
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


class Template:
    """The template of one generation, as the master sees it. It is forked for the first worker, and again for the next
    one where it has died. It runs `main(socket, reporter)`: by the socket, the master asks it for workers.
    """

    def __init__(self, children: Children, main: Callable[[socket.socket, Reporter], int], boot_timeout: float) -> None:
        self._children = children
        self._main = main
        self._boot_timeout = boot_timeout
        self._child: Child | None = None
        self._channel: socket.socket  # to the child
        self._busy = False
        self._turn = Condition(children.loop)
        self._dismissed = False

    async def fork(self, slot: int, pages: int, position: int, workers: int) -> Child:
        """Have the template fork the worker at `position` of `workers`, for `slot` of the scoreboard. The descriptor
        `pages` lets the worker write its page there. Raises BootError where the worker or the template cannot be had.
        """
        await self._turn.wait_for(lambda: not self._busy)
        self._busy = True
        try:
            if self._dismissed:
                raise BootError("its generation is leaving")
            if self._child is None or self._child.exited.is_set():
                await self._boot()
            return await self._ask(b"%d %d %d" % (slot, position, workers), pages)
        finally:
            self._busy = False
            self._turn.notify_all()

    def dismiss(self) -> None:
        """Fork no more workers: a task that waits for one gets a BootError. A template that boots is ended."""
        self._dismissed = True
        if self._child is not None and self._child.reports:
            self._children.loop.spawn(self._child.see_end(), "ending a template that boots")

    async def end(self, workers: Collection[Child]) -> None:
        """Once it is dismissed: wait until all `workers` have ended, then end it. Until then, a worker may need what
        the import has started, such as a process.
        """
        while workers:
            await next(iter(workers)).exited.wait()
            await PAUSE
        if self._child is not None:
            await self._child.see_end()

    async def ended(self) -> None:
        """Wait until the template has ended, if there is one."""
        if self._child is not None:
            await self._child.exited.wait()

    async def _boot(self) -> None:
        """Fork the template, and wait until it has imported the application. Raises BootError."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.setblocking(False)
        with ExitStack() as undo, theirs:
            undo.callback(channel.close)
            self._children.private.append(channel.close)
            undo.callback(self._children.private.remove, channel.close)
            child = self._children.fork(partial(self._main, theirs), "template")
            closing = undo.pop_all()
        self._child, self._channel = child, channel
        self._children.loop.spawn(self._bury(child, closing), f"waiting for the end of template {child.pid}")
        try:
            await child.ready(self._boot_timeout)
        except BootError:
            await child.see_end()
            raise
        child.hang_up()
        log.debug("template %d is ready", child.pid)

    async def _bury(self, child: Child, channel: ExitStack) -> None:
        """Wait until the template has ended, and log that if nobody had asked it to leave. Close the channel as soon as
        no task waits at it.
        """
        await child.exited.wait()
        if not (self._dismissed or child.reports):
            log.error("template %d died: %s; the next worker gets another", child.pid, child.exit_description)
        await self._turn.wait_for(lambda: not self._busy or self._child is not child)
        channel.close()

    async def _ask(self, which: bytes, pages: int) -> Child:
        """Send the template a request for a worker, and adopt the worker. Raises BootError."""
        assert self._child is not None
        loop, channel = self._children.loop, self._channel
        ours, theirs = socket.socketpair()
        with ours, theirs, self._children.adopting():
            try:
                socket.send_fds(channel, [which], [theirs.fileno(), pages])
                with loop.within(self._boot_timeout):
                    await loop.readable(channel.fileno())
                answer = channel.recv(64)
            except (OSError, TimedOut) as error:
                self._child.signal(signal.SIGKILL)  # or it might answer this request when it gets the next
                await self._child.exited.wait()
                raise BootError(f"the template does not answer: {str(error) or 'timed out'}") from None
            finally:
                loop.forget(channel.fileno())
            if not answer.isdigit():
                raise BootError(f"cannot fork a worker: {answer.decode(errors='replace') or 'the template is gone'}")
            try:
                child = self._children.adopt(int(answer), ours.detach())
            except MalformedMessage as error:
                self._child.signal(signal.SIGKILL)  # its application interferes; the next request forks a new one
                await self._child.exited.wait()
                raise BootError(f"the template sent a malformed message: {error}") from None
        child.ask(KNOWN)
        return child


def run(assignment: worker.Assignment, channel: socket.socket, reporter: Reporter) -> int:
    """Live as a template, and return the exit status. Raises what importing the application raises."""
    try:
        with suppress(Dismissed):
            _serve(assignment, channel, reporter)
    finally:
        signal.signal(ORDERED, _unheard)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_TIMEOUT)
    finish(GENTLE)
    return os.EX_OK


def _serve(assignment: worker.Assignment, channel: socket.socket, reporter: Reporter) -> None:
    """Import the application, and fork workers until the master is gone. Raises Dismissed when it is told to end, and
    what the import raises.
    """
    forks.host()
    # not SIG_IGN, which an executed program would inherit
    handlers: dict[int, Any] = dict.fromkeys(IGNORED_SIGNALS, _unheard)
    handlers |= {signal.SIGUSR1: lambda *_: assignment.logs.reopen(), ORDERED: _dismissed}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    forks.on_fork(partial(_close_in_child, assignment, channel, reporter, handlers))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    assignment.logs.apply()
    assignment.logs.catch_crashes()
    set_process_title("template")
    os.close(assignment.pages)  # each request for a worker brings one
    environment = app_environment.set_up(assignment.settings)
    _die_with_parent()
    diagnostics = Diagnostics(None, reporter.fd)
    diagnostics.explain = lambda: reporter.send(whereabouts(stacks()))
    environment = replace(environment, load=load_applications(assignment.settings.routes))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # as in a worker: the import may have blocked ORDERED
    diagnostics.end()
    _warn_of_started()
    _prctl(_PR_SET_PDEATHSIG, 0)  # from now on the end of `channel` tells of it, and the template ends in order
    gc.collect()
    gc.freeze()  # or the garbage collector of each copy would write to the shared memory
    reporter.send(Report())
    while True:
        asked, descriptors, _, _ = socket.recv_fds(channel, 64, 2, socket.MSG_CMSG_CLOEXEC)
        if not asked:
            return
        slot, position, workers = map(int, asked.split())
        sockets = listen.worker_sockets(assignment.sockets, position, workers)
        others = set(assignment.sockets.values()) - set(sockets.values())
        said, pages = descriptors
        born = replace(assignment, pages=pages, slot=slot, position=position, sockets=sockets, environment=environment)
        answer = _bear(born, [channel, *others], Reporter(said))
        with suppress(OSError):
            channel.send(answer)


def _close_in_child(
    assignment: worker.Assignment, channel: socket.socket, reporter: Reporter, handlers: dict[int, Any]
) -> None:
    """Close all that is the template's, in a process that the application forks as it is imported (forks.py)."""
    give_back(handlers)
    channel.close()
    reporter.close()
    for listener in assignment.sockets.values():
        listener.close()
    os.close(assignment.lifeline)
    set_process_title("forked by template")


def _bear(assignment: worker.Assignment, ours: Sequence[socket.socket], reporter: Reporter) -> bytes:
    """Fork a worker that is the master's child by the time this returns. Returns its pid as text, or why there is none.
    The worker closes `ours`.
    """
    reading, writing = os.pipe()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the worker has its own handlers
    try:
        with forks.server_fork():
            parent = os.fork()
            if not parent:
                _bear_and_die(assignment, ours, reporter, writing)
    except OSError as error:
        return (error.strerror or "no process").encode()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
        os.close(reporter.fd)
        os.close(assignment.pages)
    with open(reading, "rb") as told:
        answer = told.read()
    with suppress(ChildProcessError):  # the application ignores SIGCHLD (waitpid(2)), or reaps every child
        os.waitpid(parent, 0)
    return answer or b"no process"


def _bear_and_die(
    assignment: worker.Assignment, ours: Sequence[socket.socket], reporter: Reporter, writing: int
) -> None:
    """In the worker's parent: fork the worker, tell its pid, and end. Never returns, neither here nor in the worker."""
    try:
        pid = os.fork()
        if not pid:
            for each in ours:
                each.close()
            os.close(writing)
            live(
                lambda reporter: worker.run(assignment, reporter) if os.read(reporter.fd, len(KNOWN)) else os.EX_OK,
                reporter,
            )
        os.write(writing, b"%d" % pid)
    except OSError as error:
        os.write(writing, (error.strerror or "no process").encode())
    finally:
        os._exit(os.EX_OK)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the master dies, even in the midst of a call. To be called after the
    change of user, which would undo it.
    """
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the master has died before that
        os._exit(os.EX_SOFTWARE)


def _prctl(option: int, value: int) -> None:
    """prctl(2). Raises BootError."""
    import ctypes  # takes a MiB, and nothing else needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise BootError(f"preload: prctl({option}): {os.strerror(ctypes.get_errno())}")


def _warn_of_started() -> None:
    """Log which threads and processes the import of the application has started."""
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        log.warning("importing the application has started threads, which no worker has with preload: %s", names)
    if started := _started():
        log.warning("importing the application has started processes, which all workers share: %s", started)


def _started() -> str:
    """The processes that the application has started, as text: names and pids."""
    found = []
    multiprocessing = sys.modules.get("multiprocessing")
    names = {child.pid: child.name for child in multiprocessing.active_children()} if multiprocessing else {}
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{names.get(child.pid) or child.name()} ({child.pid})")
    return ", ".join(found)


def _unheard(number: int, frame: object) -> None:
    pass


def _dismissed(number: int, frame: FrameType | None) -> None:
    dismiss(frame)
