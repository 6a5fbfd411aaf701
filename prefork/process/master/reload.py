"""Generations: which generation serves, and how the next one takes its place. Owns all that boot, serve or leave.

An application may import well and crash all the same as soon as it is called: a C extension that does not fit, or a
call of os._exit. So once a new generation serves, the old one stands by for `workers.probation` seconds: it takes no
clients any more, and says so to those that it has, as if it drained; but it keeps its listeners, its application and
its processes, and so can come back at once, with the code that worked. That is what a reload waits for, so it is the
reload that fails, and says why. It costs the memory of the old workers for that time. A generation that is busy has
proven itself sooner, after PROOF requests.

Who crashes later has to do with what there is: respawn (respawn.py). So has a reload that takes an address
away, as its socket is closed for good before the old workers could come back to it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic

from prefork.errors import BootError
from prefork.logger import log
from prefork.net import listen, permissions
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.process.pool.generation import Generation, Phase, configured_size
from prefork.process.worker.drain import time_for_shutdown
from prefork.settings.schema import Settings
from prefork.settings.wording import counted
from prefork.shared.scoreboard import Scoreboard

PROOF = 100  # requests that a generation has answered, so it is not they that it crashes with
CRASHES = 2  # workers that have died: one might have met a request that would have killed an old one, too
LOOK = 0.05  # seconds
FAST = 1.0  # seconds that workers have to obey INT, which those stuck in an application cannot


class Generations:
    """`living` are all generations that have workers or may fork some, `current` is the one whose settings count."""

    current: Generation

    def __init__(self, children: Children, scoreboard: Scoreboard) -> None:
        self.living: list[Generation] = []
        self.on_change: Callable[[Generation], None] = lambda _: None  # of each generation
        self._children = children
        self._ending = False
        self._scoreboard = scoreboard

    def make(self, number: int, settings: Settings, sockets: Sockets, logs: Logs) -> Generation:
        logs.count_in(self._scoreboard.slot(0))  # what the master loses, as workers count in slots of their own
        fresh = Generation(number, settings, sockets, logs, self._children, self._scoreboard, self.living)
        fresh.on_change = self.on_change
        self.living.append(fresh)
        return fresh

    def forget(self, generation: Generation) -> None:
        """It has no workers any more, and never will."""
        self.living.remove(generation)
        generation.close()

    async def replace(self, fresh: Generation, modes: ExitStack) -> None:
        """Have `fresh`, whose workers are ready, serve in the place of the current generation, which leaves.

        Raises BootError when it crashes with its first requests: then it is `fresh` that leaves, and `modes` is closed.
        """
        old = leaving = self.current
        fresh.open()
        self._crown(fresh)
        try:
            if not old.sockets.keys() - fresh.sockets.keys() and old.phase is Phase.SERVING:
                await self._try_out(old, fresh)
            log.info("reloaded: generation %d serves with %s", fresh.number, counted(fresh.size, "worker"))
        except Exception:
            leaving = fresh
            self._crown(old)
            old.come_back()
            modes.close()
            raise
        finally:  # as well where the server is to stop meanwhile
            listen.release(leaving.sockets, keep=self.current.sockets)
            self._children.loop.spawn(self._retire(leaving), f"draining generation {leaving.number}")

    async def end(self) -> None:
        """End all children, and wait until they are gone. No request is waited for; ASGI applications shut down all the
        same, but not where a request holds the loop up, so that they cannot. At the second time, all that is left is
        killed.
        """
        living = self._children.living
        if self._ending:
            for child in living:
                child.signal(signal.SIGKILL)
            for child in living:
                await child.exited.wait()
            return
        self._ending = True
        shutdown = max(time_for_shutdown(each.settings.workers) for each in self.living)
        hosts = [child for child in living if child.asgi]
        telling = self._children.loop.spawn(self._tell_of_waiting(hosts), "reporting applications that shut down")
        await self._children.dismiss(living, FAST, shutdown=shutdown, urgent=True)
        telling.cancel()

    async def _tell_of_waiting(self, children: Sequence[Child]) -> None:
        await self._children.loop.sleep(FAST + LOOK)
        if not all(child.exited.is_set() for child in children):
            log.info("waiting for the applications to shut down; another INT ends the wait")

    def _crown(self, generation: Generation) -> None:
        self.current = generation
        generation.logs.apply()

    async def _try_out(self, old: Generation, fresh: Generation) -> None:
        """Wait until `fresh` has proven itself, while `old` stands by. Raises BootError when it does not."""
        probation = fresh.settings.workers.probation
        if not probation:
            return
        old.stand_by()
        until = monotonic() + probation
        while monotonic() < until and fresh.answered() < PROOF:
            await self._children.loop.sleep(LOOK)
            if len(fresh.crashes) >= min(CRASHES, fresh.size):
                raise BootError(f"the new workers crash with their first requests: {', '.join(fresh.crashes)}")

    async def _retire(self, generation: Generation) -> None:
        await generation.drain()
        self.forget(generation)
        log.info("generation %d has left", generation.number)


def adopt(current: Sockets, settings: Settings) -> Sockets:
    """The sockets of a generation with these settings, of `current` and bound anew. Raises StartError."""
    mode = permissions.usual_mode(settings.master.umask)
    return listen.adopt(current, settings.listen, configured_size(settings), mode)
