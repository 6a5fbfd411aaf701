"""A generation: the workers of one configuration. Owns their start, their number, and their drain."""

from __future__ import annotations

import os
import socket
import time

from prefork.errors import BootError
from prefork.handlers.build import prepare_asgi
from prefork.net import file_paths, listen
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.process.messages import Reporter
from prefork.process.pool import template, watchdog
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.process.pool.position import Position
from prefork.process.pool.supervision import Phase, Supervision
from prefork.process.pool.template import Template
from prefork.process.worker import worker
from prefork.runtime.task import Task
from prefork.settings.schema import Settings
from prefork.shared.counters import REQUESTS
from prefork.shared.scoreboard import Order, Scoreboard


class Generation(Supervision):
    """Generation `number`, with one supervising task for each worker. Call `start` once, then, where that succeeds,
    `open`. `drain` ends an opened one, `kill` one that could not start.
    """

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
        """`living` is every generation that has workers or may fork some; a child closes what belongs to the others."""
        super().__init__(number, settings, children, scoreboard)
        self.sockets = sockets
        self.logs = logs
        self.loaded = time.time()
        self._directory = file_paths.open_current()  # in which its workers begin, whenever they are forked
        self._living = living
        self._watchdog: Task | None = None
        if settings.workers.preload:
            self._template = Template(children, self._become_template, settings.workers.boot_timeout)

    async def start(self) -> None:
        """Fork the workers, and wait until all are ready. Raises BootError when one cannot be: then call `kill`."""
        if any(route.asgi for route in self.settings.routes):
            prepare_asgi()
        await self._fill(self.size)
        if any(child.asgi for child in self.ready):
            prepare_asgi()  # for workers forked later, where the routes do not say that an application is ASGI

    async def resize(self, size: int) -> None:
        """Have `size` workers, at least one. Surplus workers finish what is under way, and leave.

        Raises BootError when a new worker cannot be ready: then there are as many as before.
        """
        before = len(self._positions)
        try:
            await self._fill(size - before)
        except BootError:
            self._close_positions(before)
            raise
        self._close_positions(size)
        self.size = size

    async def _fill(self, count: int) -> None:
        """Add `count` positions, none where that is negative, and wait until each has a worker that is ready. Raises
        BootError where one cannot have one.
        """
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

    def _close_positions(self, keep: int) -> None:
        """Close all positions but the first `keep`, and ask their workers to leave."""
        closing, self._positions = self._positions[keep:], self._positions[:keep]
        for position in closing:
            position.closed.set()
            self._end_booting(position.children)
            self._children.loop.spawn(self._dismiss(position.children & self.ready), "dismissing a worker")

    def open(self) -> None:
        """Let the workers accept clients. Called after `start`, so that no worker of a generation that cannot start has
        clients.
        """
        self.phase = Phase.SERVING
        self._opened = True
        listen.begin(self.sockets, self.settings.listen)
        self._order(Order.SERVE)
        timeout = self.settings.workers.timeout
        if timeout:
            keeping = watchdog.keep(self._children.loop, self._in_charge, timeout)
            self._watchdog = self._children.loop.spawn(keeping, "looking after the workers")

    def stand_by(self) -> None:
        """Have the workers accept no more clients, but keep everything that they need to serve again."""
        self.phase = Phase.STANDING_BY
        self._end_booting(self._members)
        self._order(Order.STAND_BY)

    def come_back(self) -> None:
        """Serve again, if the generation stands by."""
        if self.phase is Phase.STANDING_BY:
            self.phase = Phase.SERVING
            self._order(Order.SERVE)
            self._news.notify_all()

    def _order(self, order: Order) -> None:
        for child in self._in_charge():
            self._give(child, order)

    def answered(self) -> int:
        """How many requests the living workers have answered, by their own count."""
        return sum(self._scoreboard.counts(slot)[REQUESTS] for slot in self._members.values())

    async def drain(self) -> None:
        """Ask the workers to finish, and wait until they and the template have ended."""
        self.leave()
        await self._dismiss(self._members)
        if self._template is not None:
            await self._template.ended()

    def kill(self) -> None:
        """End the workers of a generation that was never opened, so that they have no clients. They may still be ending
        when this returns.
        """
        self.leave()
        for child in self._in_charge():
            self._end(child)

    def is_healthy(self, patience: float) -> bool:
        """Whether at least one worker is ready and has not been stuck for `patience` seconds. A generation that leaves
        needs none, and is healthy.
        """
        return self.phase is Phase.LEAVING or any(child.stuck < patience for child in self._in_charge())

    @property
    def serving(self) -> int:
        """How many workers accept clients."""
        return len(self._in_charge()) if self.phase is Phase.SERVING else 0

    @property
    def next_attempt(self) -> float | None:
        """When the next attempt to replace a worker is due (Unix time); None while none is waited for."""
        return min(
            (position.next_attempt for position in self._positions if position.next_attempt is not None), default=None
        )

    def _in_charge(self) -> set[Child]:
        return self.ready - self._dismissed

    def leave(self) -> None:
        """Replace no worker from now on, and end those that boot."""
        if self._template is not None and self.phase is not Phase.LEAVING:
            self._template.dismiss()
            self._children.loop.spawn(self._template.end(self._members), "ending a template")
        self.phase = Phase.LEAVING
        for position in self._positions:
            position.closed.set()
        self._news.notify_all()
        self._end_booting(self._members)
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def close(self) -> None:
        """Close what this generation has alone. Its sockets stay open: the next generation may have them, too."""
        self.logs.close()
        os.close(self._directory)

    def _become_worker(self, slot: int, position: int, reporter: Reporter) -> int:
        return worker.run(
            self._enter_child(slot, position, listen.worker_sockets(self.sockets, position, self.size)), reporter
        )

    def _become_template(self, channel: socket.socket, reporter: Reporter) -> int:
        return template.run(self._enter_child(0, 0, self.sockets), channel, reporter)

    def _enter_child(self, slot: int, position: int, sockets: Sockets) -> worker.Assignment:
        """In the child: close what belongs to other generations, enter this generation's directory, and let go of the
        memory that only the master may write. A socket that a child kept would be open longer than its generation.
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
