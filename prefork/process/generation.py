"""A generation: the workers of one configuration. Spawns them, knows when all are ready, replaces who dies, drains."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable
from enum import Enum, auto
from functools import partial

from prefork.errors import BootError, TimedOut
from prefork.http.counts import REQUESTS
from prefork.kernel.event import Event
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.observe.scoreboard import Scoreboard
from prefork.process import worker
from prefork.process.children import Child, Children, Report
from prefork.process.identity import cores
from prefork.settings.schema import Settings

YOUNG = 5.0  # seconds: who dies before has not made it
LONGEST_PAUSE = 30.0  # seconds between two attempts to replace a worker that keeps dying young
GRACE = 1.0  # seconds beyond graceful_timeout until a worker that ought to have left by itself is killed

log = logging.getLogger("prefork")


class Phase(Enum):
    BOOTING = auto()
    SERVING = auto()
    LEAVING = auto()


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
        count = settings.workers.count
        self.number = number
        self.settings = settings
        self.sockets = sockets
        self.logs = logs
        self.size = cores() if count == "auto" else count
        self.phase = Phase.BOOTING
        self.ready: set[Child] = set()
        self._children = children
        self._scoreboard = scoreboard
        self._living = living
        self._members: set[Child] = set()
        self._settled = Event(children.loop)  # all are ready, or one has failed
        self._failure: BootError | None = None
        self._leaving = Event(children.loop)
        self._gate, self._gate_out = os.pipe()

    async def start(self) -> None:
        """Fork the workers, and wait until all are ready. Raises BootError when one cannot be: then `kill` is due."""
        for position in range(self.size):
            self._children.loop.spawn(self._supervise(), f"supervising worker {position}")
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    def open(self) -> None:
        """Let the workers accept clients, once `start` is over: those of a generation that fails die without any."""
        self.phase = Phase.SERVING
        os.write(self._gate_out, b"!")  # which nobody reads: so every worker hears of it, the later ones too

    async def drain(self) -> None:
        """Ask the workers to finish, and wait until they are gone: they are killed GRACE after graceful_timeout."""
        self.leave()
        for child in self._members - self.ready:
            child.signal(signal.SIGKILL)  # it has nothing to finish
        await self._children.dismiss(self._members, signal.SIGTERM, self.settings.workers.graceful_timeout + GRACE)

    def kill(self) -> None:
        """End the workers at once; the last of them may still be dying when this returns."""
        self.leave()
        for child in self._members:
            child.signal(signal.SIGKILL)

    def leave(self) -> None:
        """Replace nobody from now on."""
        self.phase = Phase.LEAVING
        self._leaving.set()

    def close(self) -> None:
        """Close what is this generation's alone, save its sockets: they may be the next one's too."""
        self.logs.close()
        os.close(self._gate)
        os.close(self._gate_out)

    async def _supervise(self) -> None:
        """Keep one worker alive until the generation leaves; give up only while it boots."""
        early = 0  # deaths in a row at a young age
        while not self._leaving.is_set():
            try:
                lived = await self._one_life()
            except Exception as error:  # whatever it is: nobody may wait for this worker in vain
                failure = error if isinstance(error, BootError) else _unforeseen(error)
                if self.phase is Phase.BOOTING:
                    self._failure = self._failure or failure
                    self._settled.set()
                    return
                if self.phase is Phase.SERVING:
                    log.error("%s", failure, extra={"report": failure.report})
                lived = 0.0
            early = early + 1 if lived < YOUNG else 0
            if early > 1 and not self._leaving.is_set():
                await self._pause(min(LONGEST_PAUSE, 2.0 ** (early - 2)))

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, but no longer than the generation stays."""
        log.warning("the next attempt to replace it in %g s", seconds)
        try:
            with self._children.loop.within(seconds):
                await self._leaving.wait()
        except TimedOut:
            pass

    async def _one_life(self) -> float:
        """Fork a worker and wait until it is gone; the seconds it lived. Raises BootError if it never got ready."""
        slot = self._scoreboard.free()
        self._scoreboard.occupy(slot, 0, self.number)
        try:
            assignment = worker.Assignment(
                self.settings, self.sockets, self.logs, self._scoreboard, slot, self._children.lifeline, self._gate
            )
            child = self._children.fork(partial(self._become_worker, assignment))
            self._scoreboard.occupy(slot, child.pid, self.number)
            self._members.add(child)
            try:
                await self._until_gone(child, slot)
            finally:
                self._members.discard(child)
                self.ready.discard(child)
            return child.age
        finally:
            self._scoreboard.vacate(slot)

    def _become_worker(self, assignment: worker.Assignment, tell: Callable[[Report], None]) -> int:
        """In the child: a removed address must close with its generation, though we were forked before."""
        os.close(self._gate_out)
        for other in self._living:
            if other is not self:
                for address in other.sockets.keys() - self.sockets.keys():
                    other.sockets[address].close()
                other.close()
        return worker.run(assignment, tell)

    async def _until_gone(self, child: Child, slot: int) -> None:
        try:
            await child.ready(self.settings.workers.boot_timeout)
        except BootError:
            child.signal(signal.SIGKILL)
            await child.exited.wait()
            raise
        self.ready.add(child)
        if len(self.ready) == self.size:
            self._settled.set()
        log.debug("worker %d is ready", child.pid)
        await child.exited.wait()
        if self.phase is Phase.LEAVING:
            log.debug("worker %d has left: %s", child.pid, child.ending)
            return
        served = self._scoreboard.slot(slot)[REQUESTS]
        log.error(
            "worker %d died: %s (after %.0f s, %d requests); replacing it", child.pid, child.ending, child.age, served
        )


def _unforeseen(error: Exception) -> BootError:
    return BootError(f"cannot supervise a worker: {error!r}", "".join(traceback.format_exception(error)))
