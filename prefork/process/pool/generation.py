"""A generation: the workers of one configuration. Spawns them, knows when all are ready, replaces who dies, drains."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial

from prefork.errors import BootError
from prefork.handlers.build import prepare_asgi
from prefork.logger import log
from prefork.net import file_paths, listen
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.process.machine import cores
from prefork.process.messages import ORDER, Reporter
from prefork.process.pool import template, watchdog
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.process.pool.deaths import Deaths
from prefork.process.pool.position import Position
from prefork.process.pool.template import Template
from prefork.process.worker import worker
from prefork.process.worker.drain import time_for_requests, time_for_shutdown
from prefork.runtime.sync import Condition
from prefork.runtime.task import Task
from prefork.settings.schema import Settings
from prefork.shared.counters import ACCEPTED, REQUESTS
from prefork.shared.scoreboard import Order, Scoreboard

TOLD = 10  # crashes that are kept: clients may bring about any number of them


class Phase(Enum):
    BOOTING = auto()
    SERVING = auto()
    STANDING_BY = auto()  # nobody is replaced, until it serves again or leaves
    LEAVING = auto()


def configured_size(settings: Settings) -> int:
    """How many workers the configuration asks for."""
    count = settings.workers.count
    return cores() if count == "auto" else count


class Generation:
    """Generation `number`: one supervising task a worker. `start` once, then `drain` or `kill` once."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        sockets: Sockets,
        logs: Logs,
        children: Children,
        scoreboard: Scoreboard,
        living: list[Generation],
    ) -> None:
        """`living` is every generation that has workers or may fork some; a worker closes what is the others'."""
        self.number = number
        self.settings = settings
        self.sockets = sockets
        self.logs = logs
        self.size = configured_size(settings)
        self.loaded = time.time()
        self._directory = file_paths.open_current()  # in which its workers begin, whenever that is
        self.phase = Phase.BOOTING
        self.ready: set[Child] = set()
        self.deaths = Deaths()
        # the last TOLD of workers that were ready, in words; but not those that were killed
        self.crashes: deque[str] = deque(maxlen=TOLD)
        self.on_change: Callable[[Generation], None] = lambda _: None  # called when a worker is ready, or has died
        self._children = children
        self._scoreboard = scoreboard
        self._living = living
        self._positions: list[Position] = []
        self._members: dict[Child, int] = {}  # all that live, with their slots
        self._dismissed: set[Child] = set()  # each for itself, while the others stay
        self._news = Condition(children.loop)  # rung when a worker is ready, or cannot be
        self._opened = False  # for clients, once
        self._rolling = False  # a worker boots in the place of one that lives
        self._turn = Condition(children.loop)  # rung when it is another's turn to be replaced
        self._vigil: Task | None = None
        self._template: Template | None = None
        if settings.workers.preload:
            self._template = Template(children, self._become_template, settings.workers.boot_timeout)

    async def start(self) -> None:
        """Fork the workers, and wait until all are ready. Raises BootError when one cannot be: then `kill` is due."""
        if any(route.asgi for route in self.settings.routes):
            prepare_asgi()
        await self._fill(self.size)
        if any(child.asgi for child in self.ready):
            prepare_asgi()  # for the later ones, where their routes do not tell

    async def resize(self, size: int) -> None:
        """Have so many workers, at least one. Those that are too many finish what is under way.

        Raises BootError when a new one cannot be ready: then there are as many as before.
        """
        before = len(self._positions)
        try:
            await self._fill(size - before)
        except BootError:
            self._close_posts(before)
            raise
        self._close_posts(size)
        self.size = size

    async def _fill(self, count: int) -> None:
        """Add `count` positions, and wait until all of them are held. Raises BootError when one cannot be."""
        first = len(self._positions)
        fresh = [Position(self._children.loop, number) for number in range(first, first + count)]
        self._positions += fresh
        for position in fresh:
            self._children.loop.spawn(self._supervise(position), "supervising a worker")
        await self._news.wait_for(
            lambda: (
                all(position.holder for position in fresh)
                or any(position.failure or position.closed.is_set() for position in fresh)
            )
        )
        for position in fresh:
            if position.failure is not None:
                raise position.failure
            if position.closed.is_set():
                raise BootError(f"generation {self.number} is leaving")
            position.established = True

    def _close_posts(self, keep: int) -> None:
        """Close all positions but the first `keep`; whoever holds one is asked to leave."""
        closing, self._positions = self._positions[keep:], self._positions[:keep]
        for position in closing:
            position.closed.set()
            self._end_booting(position.children)
            self._children.loop.spawn(self._dismiss(position.children & self.ready), "dismissing a worker")

    def open(self) -> None:
        """Let the workers accept clients, once `start` is over: those of a generation that fails die without any."""
        self.phase = Phase.SERVING
        self._opened = True
        listen.begin(self.sockets, self.settings.listen)
        self._order(Order.SERVE)
        timeout = self.settings.workers.timeout
        if timeout:
            keeping = watchdog.keep(self._children.loop, self._in_charge, timeout)
            self._vigil = self._children.loop.spawn(keeping, "looking after the workers")

    def stand_by(self) -> None:
        """Have the workers take no clients any more, but keep all that it takes to serve."""
        self.phase = Phase.STANDING_BY
        self._end_booting(self._members)
        self._order(Order.STAND_BY)

    def come_back(self) -> None:
        """Serve again, where it stands by."""
        if self.phase is Phase.STANDING_BY:
            self.phase = Phase.SERVING
            self._order(Order.SERVE)
            self._news.notify_all()

    def _order(self, order: Order) -> None:
        for child in self._in_charge():
            self._give(child, order)

    def _give(self, child: Child, order: Order) -> None:
        self._scoreboard.order(self._members[child], order)
        child.ask(ORDER)

    def answered(self) -> int:
        """How many requests the workers that live have answered, by their own word."""
        return sum(self._scoreboard.counts(slot)[REQUESTS] for slot in self._members.values())

    async def drain(self) -> None:
        """Ask the workers to finish, and wait until they are gone."""
        self.leave()
        await self._dismiss(self._members)
        if self._template is not None:
            await self._template.ended()

    def _end_booting(self, children: Iterable[Child]) -> None:
        """End those that are not known to be ready: they have not been told to serve, and have nothing to finish."""
        for child in set(children) - self.ready - self._dismissed:
            self._end(child)

    def _end(self, child: Child) -> None:
        self._dismissed.add(child)
        self._scoreboard.order(self._members[child], Order.LEAVE)  # it may just have got ready
        child.ask(ORDER)
        self._children.loop.spawn(child.see_end(), f"ending worker {child.pid}")

    def kill(self) -> None:
        """End the workers, which have no clients; the last of them may still be ending when this returns."""
        self.leave()
        for child in self._in_charge():
            self._end(child)

    def is_healthy(self, patience: float) -> bool:
        """Whether one worker at the least serves, and has not been stuck for `patience` seconds; or none is to be."""
        return self.phase is Phase.LEAVING or any(child.stuck < patience for child in self._in_charge())

    @property
    def serving(self) -> int:
        """How many workers are there for clients."""
        return len(self._in_charge()) if self.phase is Phase.SERVING else 0

    @property
    def next_attempt(self) -> float | None:
        """When a worker is to be forked in the place of one that has died (Unix time), where that is waited for."""
        return min(
            (position.next_attempt for position in self._positions if position.next_attempt is not None), default=None
        )

    def _in_charge(self) -> set[Child]:
        return self.ready - self._dismissed

    def leave(self) -> None:
        """Replace nobody from now on, and end who boots."""
        if self._template is not None and self.phase is not Phase.LEAVING:
            self._template.dismiss()
            self._children.loop.spawn(self._template.end(self._members), "ending a template")
        self.phase = Phase.LEAVING
        for position in self._positions:
            position.closed.set()
        self._news.notify_all()
        self._end_booting(self._members)
        if self._vigil is not None:
            self._vigil.cancel()
            self._vigil = None

    def close(self) -> None:
        """Close what is this generation's alone, save its sockets: they may be the next one's too."""
        self.logs.close()
        os.close(self._directory)

    async def _supervise(self, position: Position) -> None:
        """Keep a worker at the position until it is closed; give up only while that is not established."""
        child: Child | None = None
        while True:
            await self._news.wait_for(lambda: position.closed.is_set() or self.phase is not Phase.STANDING_BY)
            if position.closed.is_set():
                return
            try:
                child = await self._one_life(position, child)
                died = child.exited.is_set()
                pause = (
                    position.respawn.after_death(child.served, child.clients)
                    if died
                    else position.respawn.after_departure()
                )
            except Exception as error:  # whatever it is: nobody may wait for this worker in vain
                failure = error if isinstance(error, BootError) else _unforeseen(error)
                if position.closed.is_set() or self.phase is Phase.STANDING_BY or isinstance(error, _Ended):
                    continue
                if not position.established:
                    position.failure = failure
                    self._news.notify_all()
                    return
                self.deaths.could_not_boot(failure)
                self.on_change(self)
                pause = position.respawn.after_death(0.0, 0)
            await position.pause(pause)

    async def _one_life(self, position: Position, predecessor: Child | None) -> Child:
        """Fork a worker and wait until it is gone or wants to be replaced. Raises BootError if it never got ready.

        Once it is ready, `predecessor` is asked to leave, if it is still there.
        """
        if predecessor is None or predecessor.exited.is_set():
            child = await self._boot(position)
        else:
            child = await self._boot_in_turn(position, predecessor)
            self._children.loop.spawn(self._dismiss([predecessor]), f"replacing worker {predecessor.pid}")
        self._children.loop.spawn(child.listen(), f"listening to worker {child.pid}")
        await child.departing.wait()
        await self._news.wait_for(
            lambda: not child.exited.is_set() or child not in self._members
        )  # what it has done is known
        return child

    async def _boot_in_turn(self, position: Position, predecessor: Child) -> Child:
        """Boot a worker for one that lives on meanwhile: one at a time, as the others do not need it at once. One whose
        predecessor dies meanwhile is needed, and waits no longer.
        """
        await self._turn.wait_for(lambda: not self._rolling or predecessor.exited.is_set())
        if position.closed.is_set() or self.phase is Phase.STANDING_BY:
            raise BootError("nobody is replaced any more")
        if predecessor.exited.is_set():
            return await self._boot(position)
        self._rolling = True
        try:
            return await self._boot(position)
        finally:
            self._rolling = False
            self._turn.notify_all()

    async def _boot(self, position: Position) -> Child:
        """Fork a worker and wait until it is ready. Raises BootError."""
        child = await self._fork(position)
        if position.closed.is_set() or self.phase is Phase.STANDING_BY:  # by now; it may be ready before we go on
            self._end_booting([child])
        try:
            await child.ready(self.settings.workers.boot_timeout)
            if child in self._dismissed or child.exited.is_set():  # by now
                await child.exited.wait()
                raise BootError(f"worker {child.pid} died as it got ready: {child.exit_description}")
        except Exception as error:  # whatever it is: nobody else would end it
            await child.see_end()
            child.hang_up()
            if child in self._dismissed:
                self._dismissed.remove(child)
                raise _Ended(str(error)) from None
            raise
        self.ready.add(child)
        if self._opened and self.phase is not Phase.STANDING_BY:  # now: who is not known as ready may be killed
            self._give(child, Order.SERVE)
        position.holder = child
        self._news.notify_all()
        self.on_change(self)
        self.deaths.booted(child.pid)
        return child

    async def _fork(self, position: Position) -> Child:
        slot = self._scoreboard.free()
        self._scoreboard.occupy(slot, 0, self.number)
        try:
            if self._template is not None:
                child = await self._template.fork(slot, self._scoreboard.pages, position.number, self.size)
            else:
                child = self._children.fork(partial(self._become_worker, slot, position.number))
        except BaseException:
            self._scoreboard.vacate(slot)
            raise
        self._scoreboard.occupy(slot, child.pid, self.number)
        child.turn = partial(self._scoreboard.turn, slot)
        child.hold = partial(self._scoreboard.hold, slot)
        self._members[child] = slot
        position.children.add(child)
        self._children.loop.spawn(self._bury(position, child, slot), f"waiting for the end of worker {child.pid}")
        return child

    async def _bury(self, position: Position, child: Child, slot: int) -> None:
        """When it is gone: say so, where nobody has asked it to leave, and free its place."""
        await child.exited.wait()
        counts = self._scoreboard.counts(slot)
        child.clients = counts[ACCEPTED]
        self._scoreboard.vacate(slot)
        del self._members[child]
        self._news.notify_all()
        self._turn.notify_all()
        position.children.discard(child)
        if position.holder is child:
            position.holder = None
        if child not in self.ready:
            return  # it has not booted, and is spoken of by the task that waits for that
        self.ready.discard(child)
        if self.phase is Phase.LEAVING or child in self._dismissed:
            log.debug("worker %d has left: %s", child.pid, child.exit_description)
        else:
            if not child.was_killed:
                self.crashes.append(f"worker {child.pid} died: {child.exit_description}")
            lived = f"after {child.age:.0f} s, {counts[REQUESTS]} requests"
            died = f"worker {child.pid} died: {child.exit_description} ({lived})"
            self.deaths.note(died)
            self.on_change(self)
            log.error("%s; replacing it", died)

    async def _dismiss(self, children: Iterable[Child]) -> None:
        """Ask them to leave, and wait until they are gone, for as long as they may take."""
        leaving = list(children)
        self._dismissed.update(leaving)
        for child in leaving:
            if child in self._members:  # else it has gone meanwhile, and its slot may be another's
                self._scoreboard.order(self._members[child], Order.LEAVE)
        workers = self.settings.workers
        await self._children.dismiss(leaving, time_for_requests(workers), shutdown=time_for_shutdown(workers))
        self._dismissed.difference_update(leaving)

    def _become_worker(self, slot: int, position: int, reporter: Reporter) -> int:
        return worker.run(self._enter_child(slot, position, listen.own(self.sockets, position, self.size)), reporter)

    def _become_template(self, line: socket.socket, reporter: Reporter) -> int:
        return template.run(self._enter_child(0, 0, self.sockets), line, reporter)

    def _enter_child(self, slot: int, position: int, sockets: Sockets) -> worker.Assignment:
        """In the child: a removed address must close with its generation, though we were forked before; and what is
        the master's to write must not be ours.
        """
        inherited = {listener for generation in self._living for listener in generation.sockets.values()}
        for listener in inherited - set(sockets.values()):
            listener.close()
        for other in self._living:
            if other is not self:
                other.close()
        os.fchdir(self._directory)
        os.close(self._directory)
        return worker.Assignment(
            self.settings,
            sockets,
            self.logs,
            self._scoreboard.enter_child(),
            self._scoreboard.pages,
            slot,
            position,
            self._children.lifeline,
        )


class _Ended(BootError):
    """A worker did not get ready because its generation ended it: no failure of its own."""


def _unforeseen(error: Exception) -> BootError:
    return BootError(f"cannot supervise a worker: {error!r}", "".join(traceback.format_exception(error)))
