"""Reload: how a new generation takes the place of the old one. Owns all generations that boot, serve or leave.

An application may import well, and crash all the same as soon as it is called: by a C extension that does not fit, or
by os._exit. So while a new generation proves itself, the old one stands by for up to `workers.probation` seconds. It
accepts no more clients, and tells those that it has to leave, as in a drain. But it keeps its listeners, its
application and its processes, so it can serve again at once, with the code that worked. The reload waits for this
probation, and fails with the reason if the new workers crash. The probation costs the memory of the old workers while
it lasts. A busy generation has proven itself sooner, after PROOF requests.

Workers that crash later are only replaced (respawn.py). The same holds after a reload that takes an address away: the
socket of that address is closed for good, so the old workers could not come back to it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from time import monotonic

from prefork.errors import BootError
from prefork.logger import log
from prefork.net import listen, permissions
from prefork.net.listen import Sockets
from prefork.observe.logs import Logs
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.process.pool.generation import Generation
from prefork.process.pool.supervision import Phase, configured_size
from prefork.process.worker.drain import time_for_shutdown
from prefork.settings.schema import Settings
from prefork.settings.wording import counted
from prefork.shared.scoreboard import Scoreboard

PROOF = 100  # requests that a generation has answered, after which its probation is over
CRASHES = 2  # workers that have died: a single one may have had a request that would have killed an old one, too
LOOK_INTERVAL = 0.05  # seconds between two looks at a generation on probation
FAST = 1.0  # seconds that workers have to obey INT; a worker that is stuck in an application cannot obey


class Generations:
    """All generations of the server. `living` has those that have workers or may fork some; the settings of `current`
    are in force.
    """

    current: Generation

    def __init__(self, children: Children, scoreboard: Scoreboard) -> None:
        self.living: list[Generation] = []
        self.on_change: Callable[[Generation], None] = lambda _: None  # given to each generation
        self._children = children
        self._ending = False
        self._scoreboard = scoreboard

    def make(self, number: int, settings: Settings, sockets: Sockets, logs: Logs) -> Generation:
        logs.count_in(self._scoreboard.slot(0))  # the master's lost log lines; workers have their own slots
        fresh = Generation(number, settings, sockets, logs, self._children, self._scoreboard, self.living)
        fresh.on_change = partial(self.on_change, fresh)
        self.living.append(fresh)
        return fresh

    def forget(self, generation: Generation) -> None:
        """Drop and close a generation that has no workers, and will fork none."""
        self.living.remove(generation)
        generation.close()

    async def replace(self, fresh: Generation, modes: ExitStack) -> None:
        """Have `fresh` serve in the place of the current generation, which leaves. The workers of `fresh` are ready.

        Raises BootError when `fresh` crashes with its first requests. Then `fresh` leaves, and `modes` is closed.
        """
        old = leaving = self.current
        fresh.open()
        self._promote(fresh)
        try:
            if not _taken_away(old.sockets, fresh.sockets) and old.phase is Phase.SERVING:
                await self._try_out(old, fresh)
            log.info("reloaded: generation %d serves with %s", fresh.number, counted(fresh.size, "worker"))
        except Exception:
            leaving = fresh
            self._promote(old)
            old.come_back()
            modes.close()
            raise
        finally:  # also where the server stops meanwhile
            listen.release(leaving.sockets, keep=self.current.sockets)
            self._children.loop.spawn(self._retire(leaving), f"draining generation {leaving.number}")

    async def end(self) -> None:
        """End all children, and wait until they are gone. No request is waited for. ASGI applications still shut down,
        unless a request blocks their loop. A second call kills all children that are left.
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
        await self._children.loop.sleep(FAST + LOOK_INTERVAL)
        if not all(child.exited.is_set() for child in children):
            log.info("waiting for the applications to shut down; another INT ends the wait")

    def _promote(self, generation: Generation) -> None:
        self.current = generation
        generation.logs.apply()

    async def _try_out(self, old: Generation, fresh: Generation) -> None:
        """Wait until `fresh` has proven itself, while `old` stands by. Raises BootError when `fresh` crashes."""
        probation = fresh.settings.workers.probation
        if not probation:
            return
        old.stand_by()
        until = monotonic() + probation
        while monotonic() < until and fresh.answered() < PROOF:
            await self._children.loop.sleep(LOOK_INTERVAL)
            if len(fresh.crashes) >= min(CRASHES, fresh.size):
                raise BootError(f"the new workers crash with their first requests: {', '.join(fresh.crashes)}")

    async def _retire(self, generation: Generation) -> None:
        await generation.drain()
        self.forget(generation)
        log.info("generation %d has left", generation.number)


def _taken_away(old: Sockets, fresh: Sockets) -> bool:
    """Whether nobody listens at an address any more. A socket that is kept may be named by another address, as where a
    path is written in another way, or reuse_port is switched on.
    """
    kept = set(fresh.values())
    return any(address not in fresh and listener not in kept for address, listener in old.items())


def sockets_for(current: Sockets, settings: Settings) -> Sockets:
    """The sockets of a generation with these settings: those of `current` that fit, and new ones. Raises StartError."""
    mode = permissions.usual_mode(settings.master.umask)
    return listen.bind_missing(current, settings.listen, configured_size(settings), mode)
