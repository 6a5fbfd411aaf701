"""A generation: the workers of one configuration. Spawns them, knows when all are ready, replaces who dies, drains."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterable
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
        self._dismissed: set[Child] = set()  # each for itself, while the others stay
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
        """Ask the workers to finish, and wait until they are gone."""
        self.leave()
        for child in self._members - self.ready:
            child.signal(signal.SIGKILL)  # it has nothing to finish
        await self._dismiss(self._members)

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
        child: Child | None = None
        while not self._leaving.is_set():
            try:
                child = await self._one_life(child)
                lived = child.age
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
                await self._pause(pause_after(early))

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, but no longer than the generation stays."""
        log.warning("the next attempt to replace it in %g s", seconds)
        try:
            with self._children.loop.within(seconds):
                await self._leaving.wait()
        except TimedOut:
            pass

    async def _one_life(self, predecessor: Child | None) -> Child:
        """Fork a worker and wait until it is gone or wants to be replaced. Raises BootError if it never got ready.

        Once it is ready, `predecessor` is asked to leave, if it is still there.
        """
        child = self._fork()
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
        if predecessor is not None and not predecessor.exited.is_set():
            self._children.loop.spawn(self._dismiss([predecessor]), f"replacing worker {predecessor.pid}")
        listening = self._children.loop.spawn(child.listen(), f"listening to worker {child.pid}")
        await child.departing.wait()
        listening.cancel()
        child.hang_up()
        return child

    def _fork(self) -> Child:
        slot = self._scoreboard.free()
        self._scoreboard.occupy(slot, 0, self.number)
        try:
            assignment = worker.Assignment(
                self.settings, self.sockets, self.logs, self._scoreboard, slot, self._children.lifeline, self._gate
            )
            child = self._children.fork(partial(self._become_worker, assignment))
        except BaseException:
            self._scoreboard.vacate(slot)
            raise
        self._scoreboard.occupy(slot, child.pid, self.number)
        self._members.add(child)
        self._children.loop.spawn(self._bury(child, slot), f"waiting for the end of worker {child.pid}")
        return child

    async def _bury(self, child: Child, slot: int) -> None:
        """When it is gone: say so, where nobody has asked it to leave, and free its place."""
        await child.exited.wait()
        served = self._scoreboard.slot(slot)[REQUESTS]
        self._scoreboard.vacate(slot)
        self._members.discard(child)
        if child not in self.ready:
            return  # it has not booted, and is spoken of by who waits for that
        self.ready.discard(child)
        if self.phase is Phase.LEAVING or child in self._dismissed:
            log.debug("worker %d has left: %s", child.pid, child.ending)
        else:
            died = "worker %d died: %s (after %.0f s, %d requests); replacing it"
            log.error(died, child.pid, child.ending, child.age, served)

    async def _dismiss(self, children: Iterable[Child]) -> None:
        """Ask them to leave, and wait until they are gone: they are killed GRACE after graceful_timeout."""
        leaving = list(children)
        self._dismissed.update(leaving)
        timeout = self.settings.workers.graceful_timeout + worker.GRACE
        await self._children.dismiss(leaving, signal.SIGTERM, timeout)
        self._dismissed.difference_update(leaving)

    def _become_worker(self, assignment: worker.Assignment, tell: Callable[[Report], None]) -> int:
        """In the child: a removed address must close with its generation, though we were forked before."""
        os.close(self._gate_out)
        for other in self._living:
            if other is not self:
                for address in other.sockets.keys() - self.sockets.keys():
                    other.sockets[address].close()
                other.close()
        return worker.run(assignment, tell)


def pause_after(early: int) -> float:
    """Seconds until the next attempt to replace a worker, after so many deaths in a row at a young age."""
    return min(LONGEST_PAUSE, 2.0 ** min(early - 2, 5)) if early > 1 else 0.0


def _unforeseen(error: Exception) -> BootError:
    return BootError(f"cannot supervise a worker: {error!r}", "".join(traceback.format_exception(error)))
