"""A worker: a child of the master that serves clients. Owns the assembly of its server, and what the worker does
at each signal and order: it serves, stands by, or drains.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from time import monotonic
from typing import NoReturn

from prefork.handlers.build import AsgiHost, Host, build
from prefork.handlers.files.cache import FileCache
from prefork.http.message import Request
from prefork.http.registry import Server
from prefork.http.spool import trouble
from prefork.logger import INFO, WARNING, log
from prefork.net import accept
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.observe.metrics import snapshot
from prefork.process.machine import pin, set_process_title
from prefork.process.messages import Report, Reporter, whereabouts
from prefork.process.signals import ORDERED, WORKER, Command, Dismissed, Signals
from prefork.process.worker.accept_balance import AcceptBalance
from prefork.process.worker.app_environment import AppEnvironment, set_up
from prefork.process.worker.descriptors import affordable_connections
from prefork.process.worker.diagnostics import Diagnostics, account, place
from prefork.process.worker.drain import Drain, time_for_requests, time_for_shutdown
from prefork.process.worker.greeting import Greeting
from prefork.process.worker.recycling import recycle
from prefork.process.worker.reserve import Reserve
from prefork.runtime import forks
from prefork.runtime.calls import Call
from prefork.runtime.checked import CheckedLoop, CheckedThreadPool
from prefork.runtime.finish import finish
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.stack import stack, stacks
from prefork.runtime.task import Task
from prefork.runtime.threads import ThreadPool
from prefork.settings.schema import Settings, Workers
from prefork.shared.counters import CALLS
from prefork.shared.scoreboard import PULSE, STATE, Board, Order, State

THREADS_TIMEOUT = (
    0.5  # seconds that threads have to end where requests were not waited for, once applications are shut down
)
RESERVE = 64  # descriptors for what is not a connection: sockets, logs, the application's files


@dataclass(frozen=True)
class Assignment:
    """The resources of one worker.

    `scoreboard` is there to read; the descriptor `pages` lets the worker write the page of its `slot`. `position` is
    its number in its generation, from 0 on. The descriptor `lifeline` comes to its end when the master does. A copy of
    a template has the `environment` of the template.
    """

    settings: Settings
    sockets: Sockets
    logs: Logs
    scoreboard: Board
    pages: int
    slot: int
    position: int
    lifeline: int
    environment: AppEnvironment | None = None


def run(assignment: Assignment, reporter: Reporter) -> int:
    """Live as a worker, and return the exit status. Raises what assembling raises; then it has not reported ready."""
    forks.host()
    set_process_title(f"worker {assignment.slot}")
    if assignment.settings.workers.affinity:
        pin(assignment.position)
    try:
        worker = Worker(assignment, reporter)
    except Dismissed:
        return os.EX_OK
    reporter.send(Report(asgi=worker.hosts_asgi))
    if not reporter.heard:  # the master could never ask it to leave
        return os.EX_UNAVAILABLE
    worker.serve()
    if worker.leaves_threads:
        finish(threads=THREADS_TIMEOUT)
        os._exit(os.EX_OK)
    return os.EX_OK


class Phase(Enum):
    BOOTING = auto()
    SERVING = auto()
    STANDING_BY = auto()  # it accepts no clients, until the master says otherwise
    LEAVING = auto()


_STATES = {Phase.SERVING: State.SERVING, Phase.STANDING_BY: State.DRAINING, Phase.LEAVING: State.DRAINING}


class Worker:
    """Serves the sockets of its assignment."""

    def __init__(self, assignment: Assignment, reporter: Reporter) -> None:
        settings = assignment.settings
        self._assignment = assignment
        self._reporter = reporter
        self._board = assignment.scoreboard.map_own_page(assignment.slot, assignment.pages)
        self._loop, self._pool = _loop_and_pool(settings.workers)
        self._asgi: AsgiHost | None = None
        self._loop.pulse = self._board[PULSE : PULSE + 1].cast("B").cast("d")
        # before the application is imported: HUP must not kill the worker meanwhile
        self._signals = Signals(self._loop, WORKER, insist=True)
        forks.on_fork(self._close_in_child)
        assignment.logs.apply()
        assignment.logs.count_in(self._board)
        assignment.logs.catch_crashes()
        note = self._signals.note
        self._diagnostics = Diagnostics(
            assignment.lifeline, reporter.fd, partial(note, ORDERED), partial(note, signal.SIGINT)
        )
        self._diagnostics.explain = self._tell_place
        self._pool.counts = self._board[CALLS : CALLS + len(self._pool.counts)]
        self._pool.calls.overdue = self._give_up
        with self._signals.interruptible():
            self._server = self._assemble(assignment.environment or set_up(settings))
            if self._asgi is not None:
                self._asgi.start_up()
        self._greeting = Greeting(self._server)
        reserve = RESERVE + settings.file_cache.open_files
        self._server.limit = affordable_connections(settings.workers.connections, self._loop.poller.limit, reserve)
        self._reserve = Reserve(self._server, assignment.scoreboard, assignment.slot)
        self._accepting: list[Task] = []
        self._balance = AcceptBalance(self._loop, assignment.scoreboard, assignment.slot)
        self._told = 0  # how many orders of the master have been obeyed
        self._phase = Phase.BOOTING
        self._drain = Drain(self._server, self._pool, self._asgi, settings.workers)
        self._retiring = False  # the worker has asked to be replaced
        self._signals.catch()
        recycle(self._loop, settings.workers, self._board, partial(self._retire, INFO))

    def _assemble(self, environment: AppEnvironment) -> Server:
        """The server with all its routes. Raises what the import of an application raises."""
        settings, logs = self._assignment.settings, self._assignment.logs
        if (told := trouble()) and not self._assignment.position:  # log it once for each generation
            log.warning("%s", told)
        cache = FileCache(settings.file_cache, self._board)
        forks.on_fork(cache.shed)
        self._loop.spawn(cache.sweep(self._loop), "closing idle files")
        host = Host(
            self._pool,
            settings.workers,
            lambda: snapshot(self._assignment.scoreboard),
            environment.roots,
            cache,
            pages=environment.pages,
            compression=settings.compression,
            asgi=self._host_asgi,
            load=environment.load,
        )
        router = build(settings.routes, host)
        if self._asgi is not None:
            self._pool.pinned = True  # asyncio must stay in its thread
        if self._pool.wanted:
            self._pool.start()
        if logs.access is not None:
            logs.access.start()
        record = None if logs.access is None else logs.access.record
        server = Server(self._loop, settings.http, router.find, self._board, record, environment.pages.with_error_page)
        forks.on_fork(server.close_in_child)
        server.vital, server.repeatable = router.vital, router.repeatable
        server.limit_of_route = router.body_limit
        return server

    def _close_in_child(self) -> None:
        """Close all that is this worker's, in a process that an application has forked (forks.py)."""
        assignment = self._assignment
        self._signals.close_in_child()
        self._loop.close_in_child()
        self._pool.close_in_child()
        for listener in assignment.sockets.values():
            listener.close()
        os.close(assignment.lifeline)
        self._reporter.close()
        set_process_title(f"forked by worker {assignment.slot}")

    @property
    def leaves_threads(self) -> bool:
        """Whether a thread may still be in a request that was not waited for. Starlette calls plain functions in such
        threads.
        """
        return self.hosts_asgi and self._drain.cut_short

    @property
    def hosts_asgi(self) -> bool:
        return self._asgi is not None

    def _host_asgi(self) -> AsgiHost:
        """The host of this worker's ASGI applications. The first call makes it, and imports asyncio."""
        if self._asgi is None:
            from prefork.handlers.apps.asgi.application import Asgi

            settings = self._assignment.settings
            self._asgi = Asgi(self._loop, settings.websocket, settings.http.send_timeout)
            forks.on_fork(self._asgi.close_in_child)
        return self._asgi

    def serve(self) -> None:
        """Serve until the worker has been told to leave, and has drained."""
        self._loop.spawn(self._obey(), "obeying signals")
        self._loop.spawn(self._outlive_master(), "watching the master")
        self._loop.spawn(self._leave_clients_to_others(), "watching the threads")
        self._diagnostics.explain = self._explain
        self._diagnostics.account = lambda: self._reporter.send(
            Report(account=account(self._server.exchanges(), monotonic()))
        )
        workers = self._assignment.settings.workers
        self._diagnostics.patience = time_for_requests(workers) + (
            time_for_shutdown(workers) if self.hosts_asgi else 0.0
        )
        try:
            if self._asgi is not None:
                self._asgi.run()
                self._asgi.close()
            elif self._pool.wanted:
                self._pool.run(self._finish)
            else:
                self._loop.run()
        finally:
            self._end()

    def _end(self) -> None:
        self._server.cut()
        if (access := self._assignment.logs.access) is not None:
            access.stop()

    def _finish(self, failure: BaseException | None) -> NoReturn:
        """End the process from another thread, as the main thread does not come back from an application call."""
        self._end()
        if failure is not None:
            log.critical("worker %d ends: %r", os.getpid(), failure, exc_info=failure)
        finish()
        os._exit(os.EX_OK if failure is None else os.EX_SOFTWARE)

    async def _room(self, listener: socket.socket, is_own: bool, wanted: bool) -> None:
        if wanted:
            await self._reserve.make_room(listener, shared=not is_own)
        elif await self._reserve.admit(listener, shared=not is_own) and not is_own:
            await self._balance.wait_for_turn(listener)

    def _give_up(self, call: Call) -> None:
        """An application call takes too long: log where it is, answer in its place, and ask to be replaced."""
        request: Request = call.what
        where = f"{request.method} {request.target} has taken more than {call.timeout:g} s, and is at"
        log.error("%s", where, extra={"report": stack(call.thread)})
        if self._pool.calls.away.get(call.task) is call:  # else its answer is being sent, or has been
            exchange = self._server.exchange_of(call.task)
            if exchange is not None:
                exchange.give_up()
        self._retire(WARNING, "one of its threads is stuck (timeout of its route, or workers.timeout)")

    def _retire(self, level: int, reason: str) -> None:
        """Ask once to be replaced. Another worker will be ready before this one is told to leave."""
        if not (self._retiring or self._phase is Phase.LEAVING):
            self._retiring = True
            log.log(level, "this worker asks to be replaced, since %s", reason)
            self._reporter.send(Report())

    def _explain(self) -> None:
        """The master asks, as the loop is stuck: log where it is, and ask to be replaced. In the diagnostics thread."""
        where = place(self._server.exchanges(), self._asgi.running() if self._asgi else None, monotonic())
        log.error("the loop is stuck %s; its threads are at", where, extra={"report": stacks()})
        self._retire(WARNING, "its loop is stuck")

    def _tell_place(self) -> None:
        """The master asks, as the boot takes too long: report the stacks. In the diagnostics thread."""
        self._reporter.send(whereabouts(f"{self._asgi.stacks() if self._asgi else ''}{stacks()}"))

    async def _obey(self) -> None:
        while True:
            command = await self._signals.next()
            if command is Command.OBEY:
                self._obey_order()
            elif command is Command.STOP:  # sent by somebody else than the master
                self._loop.spawn(self._leave_after_notice(), "waiting for the drain")
            elif command is Command.STOP_NOW:
                self._drain.hurry()
                self._leave()
            elif command is Command.REOPEN:
                self._assignment.logs.reopen()

    def _obey_order(self) -> None:
        """Obey the last order of the master; it overrides those before it."""
        count, order = self._assignment.scoreboard.orders(self._assignment.slot)
        told, self._told = self._told, count
        if told == count:  # each order is signalled, but an earlier signal has found this one
            return
        if order is Order.LEAVE:
            self._leave()
        elif order is Order.STAND_BY:
            self._stand_by()
        else:
            self._take_clients()

    async def _outlive_master(self) -> None:
        await self._loop.readable(self._assignment.lifeline)
        log.error("the master is gone; draining")
        self._loop.forget(self._assignment.lifeline)
        self._leave()

    async def _leave_after_notice(self) -> None:
        """Drain after `drain_delay`, as the master does: a service manager signals all processes at once."""
        await self._loop.sleep(self._assignment.settings.workers.drain_delay)
        self._leave()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._board[STATE] = _STATES[phase]

    def _leave(self) -> None:
        if self._phase is not Phase.LEAVING:
            self._begin_drain()
            self._loop.spawn(self._drain.run(), "draining")

    def _stop_accepting(self) -> None:
        for task in self._accepting:
            task.cancel()
        self._accepting.clear()
        for listener in self._assignment.sockets.values():
            self._loop.forget(listener.fileno())

    def _stand_by(self) -> None:
        """Drain as far as that can be undone. The next generation accepts the clients of the listeners."""
        if self._phase in (Phase.BOOTING, Phase.SERVING):
            self._enter(Phase.STANDING_BY)
            self._stop_accepting()
            self._drain.begin()

    def _take_clients(self) -> None:
        """Begin to accept clients, for the first time or again."""
        if self._phase in (Phase.BOOTING, Phase.STANDING_BY):
            self._server.resume()
            self._accept()
            self._enter(Phase.SERVING)

    def _accept(self) -> None:
        for address, listener in self._assignment.sockets.items():
            room = partial(self._room, listener, bool(address.number))
            greet = self._greeting.protocol_for(address, listener)
            accepting = accept.accept(self._loop, listener, room, greet, self._server.relieve)
            self._accepting.append(self._loop.spawn(accepting, "accepting"))

    async def _leave_clients_to_others(self) -> None:
        """While all threads are in calls, and those of others are not, accept anew, so that the others hear of each
        client.
        """
        while True:
            await self._balance.overloaded(self._pool.filled)
            if self._phase is Phase.SERVING:
                self._stop_accepting()
                self._accept()

    def _begin_drain(self) -> None:
        """Begin the drain. Clients in the queue are still accepted, unless the drain is hurried, and no later ones."""
        has_accepted = self._phase is Phase.SERVING and not self._drain.hurried
        self._enter(Phase.LEAVING)
        self._stop_accepting()
        self._drain.begin()  # from now on, the limit does not hold
        for address, listener in self._assignment.sockets.items():
            if has_accepted:
                accept.accept_rest(self._loop, listener, self._greeting.protocol_for(address, listener))
            listener.close()


def _loop_and_pool(workers: Workers) -> tuple[Loop, ThreadPool]:
    poller = make_poller(workers.event_loop)
    if sys.flags.dev_mode:  # python -X dev
        checked = CheckedLoop(poller)
        return checked, CheckedThreadPool(checked, workers.threads)
    loop = Loop(poller)
    return loop, ThreadPool(loop, workers.threads)
