"""The master: binds, boots the first generation, then waits for a command, obeys it, and waits again.

It owns what outlives a configuration: the pid file, the control socket, the listening sockets, the scoreboard and the
children. It never imports application code, and no command of its own ever sleeps or polls.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from prefork import __version__
from prefork.errors import BootError, PreforkError
from prefork.kernel.event import Event
from prefork.kernel.loop import PARKED, Loop, Task
from prefork.kernel.poller import make_poller
from prefork.net import listen
from prefork.observe.logs import Logs
from prefork.observe.scoreboard import Scoreboard
from prefork.process.children import Children
from prefork.process.control import ControlSocket, Message
from prefork.process.generation import Generation
from prefork.process.identity import PidFile
from prefork.process.signals import MASTER, Command, Signals
from prefork.process.status import describe
from prefork.process.watch import Watch
from prefork.settings.schema import Settings
from prefork.settings.wording import counted

SLOTS = 4096  # of the scoreboard: workers of all generations that live at the same time; half a MiB
STOPPING = "the server is stopping"
FAST = 1.0  # seconds that workers have to obey INT, which those stuck in an application cannot

log = logging.getLogger("prefork")


class Reload:
    """One wish for a reload, and what became of it. Wishes that arrive during a reload share the next one."""

    def __init__(self, loop: Loop) -> None:
        self.done = Event(loop)
        self.error: Exception | None = None

    def settle(self, error: Exception | None) -> None:
        self.error = error
        self.done.set()


class Master:
    """One server. `load` reads the configuration anew for a reload, and raises ConfigError."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], watched: Sequence[str] = ()) -> None:
        """Binds everything. Raises StartError, with nothing left behind.

        A change of a file below one of the directories `watched`, or of the configuration file then, is a reload.
        """
        self._load = load
        self._loop = Loop(make_poller())
        self._scoreboard = Scoreboard(SLOTS)
        self._children = Children(self._loop)
        self._exit_status = os.EX_OK
        self._stopping = False
        self._generations: list[Generation] = []  # that boot, serve or drain
        self._reloads: list[Reload] = []
        self._reloader: Task | None = None
        self._last_reload: Message | None = None
        self._started = time.time()
        self._watch = Watch(self._children, watched, settings.source, self._wish_reload) if watched else None
        self._signals = Signals(self._loop, MASTER)  # they wait: none may end us while there is something to undo
        with ExitStack() as undo:
            self._pid_file = PidFile(settings.master.pid_file)
            undo.callback(self._pid_file.remove)
            logs = Logs(settings.log)
            logs.apply()
            sockets = listen.adopt({}, settings.listen)
            undo.callback(listen.release, sockets, keep={})
            self._control = ControlSocket(settings.master.control)
            undo.callback(self._control.remove)
            self._pid_file.write(os.getpid())
            self.generation = self._generation(1, settings, sockets, logs)
            undo.pop_all()

    def run(self) -> int:
        """Serve until stopped; the exit status, 1 when the first generation could not boot."""
        loop, children = self._loop, self._children
        children.private += [
            loop.poller.close,
            self._pid_file.close_in_child,
            self._control.close_in_child,
        ]
        loop.spawn(self._obey_signals(), "obeying signals")
        loop.spawn(self._control.serve(loop, self._answer), "serving the control socket")
        loop.spawn(self._boot(), "booting")
        if self._watch is not None:
            loop.spawn(self._watch.run(), "watching for changes")
        try:
            loop.run()
        finally:
            loop.close()
            listen.release(self.generation.sockets, keep={})
            self._control.remove()
            self._pid_file.remove()
            log.info("stopped")
            self._signals.ignore_all()
        return self._exit_status

    # ---- signals and commands

    async def _obey_signals(self) -> None:
        while True:
            self._obey(await self._signals.next())

    def _obey(self, command: Command) -> None:
        if command is Command.REAP:
            self._children.reap()
        elif command is Command.RELOAD:
            self._wish_reload()
        elif command is Command.REOPEN:
            self._reopen()
        elif command is Command.STOP:
            self._stop(fast=self._stopping)
        elif command is Command.STOP_NOW:
            self._stop(fast=True)

    async def _answer(self, request: Message) -> Message:
        """Obey a command that came through the control socket."""
        command = request.get("command")
        if command == "status":
            return {"ok": True, **describe(self.generation, self._started, self._last_reload, self._scoreboard)}
        if command == "reload":
            return await self._answer_reload()
        if command == "reopen":
            self._reopen()
            return {"ok": True, "message": "log files reopened"}
        if command == "stop":
            self._stop(fast=bool(request.get("now")) or self._stopping)
            return {"ok": True, "pid": os.getpid()}
        return {"ok": False, "message": f"unknown command: {command!r}"}

    async def _answer_reload(self) -> Message:
        wish = self._wish_reload()
        await wish.done.wait()
        if wish.error is None:
            return {"ok": True, "message": f"generation {self.generation.number} serves"}
        return {"ok": False, "message": str(wish.error), "report": getattr(wish.error, "report", "")}

    # ---- boot, reload, stop

    def _generation(self, number: int, settings: Settings, sockets: listen.Sockets, logs: Logs) -> Generation:
        fresh = Generation(number, settings, sockets, logs, self._children, self._scoreboard, self._generations)
        self._generations.append(fresh)
        return fresh

    def _forget(self, generation: Generation) -> None:
        self._generations.remove(generation)
        generation.close()

    async def _boot(self) -> None:
        """Start the first generation; without one there is nothing to keep, and the server ends."""
        try:
            await self.generation.start()
        except BootError as error:
            if not self._stopping:
                self._give_up(error)
            return
        if self._stopping:
            return
        self.generation.open()
        self._reloader = self._loop.spawn(self._reload_on_wish(), "reloading")
        self._announce()

    def _give_up(self, error: BootError) -> None:
        self._exit_status = 1
        self._stop(fast=True)
        log.critical("cannot start: %s", error, extra={"report": error.report})
        if self.generation.settings.log.error != "-":
            with suppress(OSError):
                print(f"{error.report}prefork: cannot start: {error}", file=sys.stderr)

    def _announce(self) -> None:
        settings, workers = self.generation.settings, counted(self.generation.size, "worker")
        urls = ", ".join(
            address.url if address.port or address.kind == "unix" else _actual_url(bound.getsockname())
            for address, bound in self.generation.sockets.items()
        )
        line = (
            f"prefork {__version__} serving {urls} with {workers} "
            f"({f'config {settings.source}, ' if settings.source else ''}pid {os.getpid()}); "
            "stop with Ctrl-C or `prefork stop`"
        )
        try:
            print(line, flush=True)
        except OSError:  # nobody reads our stdout; what is printed from now on is to fail no more
            log.info("%s", line)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _wish_reload(self) -> Reload:
        wish = Reload(self._loop)
        self._reloads.append(wish)
        if self._stopping:
            self._refuse_reloads()
        elif self._reloader is not None:
            self._reloader.wake()
        return wish

    def _refuse_reloads(self) -> None:
        for wish in self._reloads:
            wish.settle(BootError(STOPPING))

    async def _reload_on_wish(self) -> None:
        """Reload as often as it is wished; wishes that gather meanwhile are granted by one reload."""
        while True:
            wishes, self._reloads = self._reloads, []
            if not wishes:
                await PARKED
                continue
            error: Exception | None = BootError(STOPPING)  # for one that is not to end
            try:
                await self._reload()
                error = None
            except Exception as failure:
                error = failure
                unforeseen = None if isinstance(failure, PreforkError) else failure
                extra = {"report": getattr(failure, "report", "")}
                log.error("reload failed, so all stays as it was: %s", failure, extra=extra, exc_info=unforeseen)
            finally:
                self._last_reload = {"at": time.time(), "ok": error is None, "message": str(error or "")}
                for wish in wishes:
                    wish.settle(error)

    async def _reload(self) -> None:
        """A new generation in the place of the old: wholly, or not at all. Raises PreforkError when not at all."""
        current = self.generation
        if self._watch is not None:
            self._watch.forget_bytecode()
        settings = self._load()
        if settings.master != current.settings.master:
            log.warning("[master] has changed: that takes effect with the next start")
        with ExitStack() as undo:
            logs = Logs(settings.log)
            undo.callback(logs.close)
            sockets = listen.adopt(current.sockets, settings.listen)
            undo.callback(listen.release, sockets, keep=current.sockets)
            fresh = self._generation(current.number + 1, settings, sockets, logs)
            undo.callback(self._forget, fresh)
            undo.callback(fresh.kill)
            await fresh.start()
            undo.pop_all()
        self.generation = fresh
        fresh.open()
        logs.apply()
        log.info("reloaded: generation %d serves with %s", fresh.number, counted(fresh.size, "worker"))
        listen.release(current.sockets, keep=sockets)
        self._loop.spawn(self._retire(current), f"draining generation {current.number}")

    async def _retire(self, generation: Generation) -> None:
        await generation.drain()
        self._forget(generation)
        log.info("generation %d has left", generation.number)

    def _reopen(self) -> None:
        for generation in self._generations:
            generation.logs.reopen()
        for child in self._children.living:
            child.signal(signal.SIGUSR1)

    def _stop(self, fast: bool) -> None:
        self._stopping = True
        if self._watch is not None:
            self._watch.stop()
        if self._reloader is not None:
            self._reloader.cancel()
            self._reloader = None
        self._refuse_reloads()
        self.generation.leave()  # now: Ctrl-C and service managers tell the workers too, whom nobody is to replace
        if fast:
            self._loop.spawn(self._stop_now(), "stopping at once")
        else:
            log.info("stopping: the workers finish what is under way")
            self._loop.spawn(self._stop_gracefully(), "stopping")

    async def _stop_gracefully(self) -> None:
        listen.release(self.generation.sockets, keep={})  # the workers have them still: they empty the queues
        await self.generation.drain()
        for child in self._children.living:  # of earlier generations: each has its own end set
            await child.exited.wait()
        self._loop.stop()

    async def _stop_now(self) -> None:
        await self._children.dismiss(self._children.living, signal.SIGINT, FAST)
        self._loop.stop()


def _actual_url(where: tuple[str, int]) -> str:
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"http://{host}:{where[1]}/"
