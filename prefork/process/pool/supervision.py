"""The supervision of a generation's workers: one at each position. Owns their boot, and the replacement of the dead."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial

from prefork.errors import BootError
from prefork.logger import log
from prefork.process.machine import cores
from prefork.process.messages import ORDER, Reporter
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.process.pool.deaths import Deaths
from prefork.process.pool.position import Position
from prefork.process.pool.template import Template
from prefork.process.worker.drain import time_for_requests, time_for_shutdown
from prefork.runtime.sync import Condition
from prefork.settings.schema import Settings
from prefork.shared.counters import ACCEPTED, REQUESTS
from prefork.shared.scoreboard import Order, Scoreboard

KEPT_CRASHES = 10  # crashes that are kept: clients may bring about any number of them


class Phase(Enum):
    BOOTING = auto()
    SERVING = auto()
    STANDING_BY = auto()  # no worker is replaced, until the generation serves again or leaves
    LEAVING = auto()


def configured_size(settings: Settings) -> int:
    """How many workers the configuration asks for."""
    count = settings.workers.count
    return cores() if count == "auto" else count


class Supervision:
    """Supervises the workers of generation `number`, with one task for each position (see Generation)."""

    def __init__(self, number: int, settings: Settings, children: Children, scoreboard: Scoreboard) -> None:
        self.number = number
        self.settings = settings
        self.size = configured_size(settings)
        self.phase = Phase.BOOTING
        self.ready: set[Child] = set()
        self.deaths = Deaths()
        # the last KEPT_CRASHES deaths of workers that were ready, in words, but for those that were killed
        self.crashes: deque[str] = deque(maxlen=KEPT_CRASHES)
        self.on_change: Callable[[], None] = lambda: None  # called when a worker is ready, or has died
        self._children = children
        self._scoreboard = scoreboard
        self._positions: list[Position] = []
        self._members: dict[Child, int] = {}  # all living workers, with their slots
        self._dismissed: set[Child] = set()  # workers told to leave one by one, while the others stay
        self._news = Condition(children.loop)  # notified when a worker, a position or the phase has changed
        self._opened = False  # `open` has been called
        self._rolling = False  # a worker boots to replace one that still lives
        self._turn = Condition(children.loop)  # notified when the next living worker may be replaced
        self._template: Template | None = None

    def _become_worker(self, slot: int, position: int, reporter: Reporter) -> int:
        """In the child: live as a worker, and return the exit status."""
        raise NotImplementedError

    async def _supervise(self, position: Position) -> None:
        """Keep a worker at the position until the position is closed. Only where the position is not established, the
        first failure ends this.
        """
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
            except Exception as error:  # any error must be reported: a task may wait for this worker
                failure = error if isinstance(error, BootError) else _unforeseen(error)
                if position.closed.is_set() or self.phase is Phase.STANDING_BY or isinstance(error, _Ended):
                    continue
                if not position.established:
                    position.failure = failure
                    self._news.notify_all()
                    return
                self.deaths.could_not_boot(failure)
                self.on_change()
                pause = position.respawn.after_death(0.0, 0)
            await position.pause(pause)

    async def _one_life(self, position: Position, predecessor: Child | None) -> Child:
        """Fork a worker, and wait until it is gone or must be replaced. Raises BootError if it never got ready.

        Once it is ready, `predecessor` is asked to leave, if that still lives.
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
        )  # `_bury` has taken its counts
        return child

    async def _boot_in_turn(self, position: Position, predecessor: Child) -> Child:
        """Boot a worker to replace one that still lives: one worker at a time, as none of these is urgent. One whose
        predecessor dies meanwhile is urgent, and waits no longer.
        """
        await self._turn.wait_for(lambda: not self._rolling or predecessor.exited.is_set())
        if position.closed.is_set() or self.phase is Phase.STANDING_BY:
            raise BootError("no worker is replaced any more")
        if predecessor.exited.is_set():
            return await self._boot(position)
        self._rolling = True
        try:
            return await self._boot(position)
        finally:
            self._rolling = False
            self._turn.notify_all()

    async def _boot(self, position: Position) -> Child:
        """Fork a worker, and wait until it is ready. Raises BootError."""
        child = await self._fork(position)
        if position.closed.is_set() or self.phase is Phase.STANDING_BY:  # meanwhile; it may soon be ready
            self._end_booting([child])
        try:
            await child.ready(self.settings.workers.boot_timeout)
            if child in self._dismissed or child.exited.is_set():  # meanwhile
                await child.exited.wait()
                raise BootError(f"worker {child.pid} died as it got ready: {child.exit_description}")
        except Exception as error:  # any error: no other task would end this child
            await child.see_end()
            child.hang_up()
            if child in self._dismissed:
                self._dismissed.remove(child)
                raise _Ended(str(error)) from None
            raise
        self.ready.add(child)
        if self._opened and self.phase is not Phase.STANDING_BY:  # not before it is in `ready`
            self._give(child, Order.SERVE)
        position.holder = child
        self._news.notify_all()
        self.on_change()
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
        """Wait until `child` has ended, take its counts, and free its slot. Log its death if nobody had asked it to
        leave.
        """
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
            return  # it has not booted, which the task that waits for its boot reports
        self.ready.discard(child)
        if self.phase is Phase.LEAVING or child in self._dismissed:
            log.debug("worker %d has left: %s", child.pid, child.exit_description)
        else:
            if not child.was_killed:
                self.crashes.append(f"worker {child.pid} died: {child.exit_description}")
            lived = f"after {child.age:.0f} s, {counts[REQUESTS]} requests"
            died = f"worker {child.pid} died: {child.exit_description} ({lived})"
            self.deaths.note(died)
            self.on_change()
            log.error("%s; replacing it", died)

    async def _dismiss(self, children: Iterable[Child]) -> None:
        """Ask `children` to leave, and wait until they are gone. Those that take longer than the settings allow are
        killed.
        """
        leaving = list(children)
        self._dismissed.update(leaving)
        for child in leaving:
            if child in self._members:  # else it has ended meanwhile, and another worker may have its slot
                self._scoreboard.order(self._members[child], Order.LEAVE)
        workers = self.settings.workers
        await self._children.dismiss(leaving, time_for_requests(workers), shutdown=time_for_shutdown(workers))
        self._dismissed.difference_update(leaving)

    def _give(self, child: Child, order: Order) -> None:
        self._scoreboard.order(self._members[child], order)
        child.ask(ORDER)

    def _end_booting(self, children: Iterable[Child]) -> None:
        """End those of `children` that are not known to be ready. None of them has been told to serve, so there is
        nothing to finish.
        """
        for child in set(children) - self.ready - self._dismissed:
            self._end(child)

    def _end(self, child: Child) -> None:
        self._dismissed.add(child)
        self._scoreboard.order(self._members[child], Order.LEAVE)  # the worker may just have got ready
        child.ask(ORDER)
        self._children.loop.spawn(child.see_end(), f"ending worker {child.pid}")


class _Ended(BootError):
    """A worker did not get ready because its generation ended it: no failure of its own."""


def _unforeseen(error: Exception) -> BootError:
    return BootError(f"cannot supervise a worker: {error!r}", "".join(traceback.format_exception(error)))
