"""The master: binds, boots the first generation, then obeys signals and commands. Owns everything that outlives a
configuration: the pid file, the control socket, the listening sockets, the scoreboard and the children.

The master never imports application code. A command that takes long runs as a task, so the next one is obeyed
meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import Enum, auto
from functools import partial

from msgspec import structs

from prefork.errors import BootError, StartError
from prefork.logger import log
from prefork.net import inherited, listen, permissions
from prefork.observe.logs import Logs
from prefork.observe.lost_lines import LostLines
from prefork.process.machine import in_terminal, set_process_title
from prefork.process.master.banner import print_banner, regret, serving
from prefork.process.master.commands import Commands
from prefork.process.master.control import Message
from prefork.process.master.daemon import Daemon
from prefork.process.master.endpoints import Endpoints
from prefork.process.master.operations import Change, Operation, Operations
from prefork.process.master.reload import Generations, sockets_for
from prefork.process.master.service_manager import ServiceManager
from prefork.process.master.status import describe, standing
from prefork.process.master.upgrade import Inheritance, Predecessor, Successor
from prefork.process.master.watch import Watch
from prefork.process.messages import encodable
from prefork.process.pool.children import Children
from prefork.process.pool.generation import Generation
from prefork.process.pool.supervision import Phase
from prefork.process.signals import MASTER, Command, Signals
from prefork.process.start_directory import StartDirectory
from prefork.process.worker import privileges
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.task import Task
from prefork.settings.kinds import MOST_WORKERS
from prefork.settings.schema import Settings
from prefork.settings.wording import counted
from prefork.shared.scoreboard import Scoreboard

SLOTS = 4096  # living workers of all generations together, at most; the scoreboard takes 256 KiB, and a page for each
STOPPING = "the server is stopping"


class State(Enum):
    RUNNING = auto()
    SUCCEEDED = auto()  # another master has taken over, and the workers of this one drain
    STOPPING = auto()


class Master:
    """The master of one server. `load` reads the configuration again for a reload, and raises ConfigError."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        watched: Sequence[str] = (),
        predecessor: Predecessor | None = None,
        background: Daemon | None = None,
    ) -> None:
        """Binds everything that a `predecessor` does not hand over. Raises StartError, with nothing left behind.

        With `watched`, a change of a file below one of these directories, or of the configuration file, is a reload.
        """
        self._load = load
        self._predecessor = predecessor
        self._daemon = background
        self._manager = ServiceManager(os.environ)
        self._home = StartDirectory()
        self._loop = Loop(make_poller())
        self._scoreboard = Scoreboard(SLOTS)
        self._children = Children(self._loop)
        self._exit_status = os.EX_OK
        self._state = State.RUNNING
        self._generations = Generations(self._children, self._scoreboard)
        self._generations.on_change = self._tell_change
        self._operations = Operations(self._loop)
        self._commands = Commands(self._operations, self._status, self._reopen, self._stop)
        self._granting: Task | None = None
        self._answering: Task | None = None
        self._started = time.time()
        reload = partial(self._operations.add, Change.RELOAD)
        self._watch = Watch(self._children, watched, settings.source, reload) if watched else None
        self._signals = Signals(self._loop, MASTER)  # they wait, so that none ends the process halfway through this
        self._bind(settings)

    def _bind(self, settings: Settings) -> None:
        """Take everything that outlives a configuration, or nothing of it. Raises StartError."""
        warning = privileges.prepare(settings)
        self._passed = inherited.take(os.environ) if self._predecessor is None else self._predecessor.passed
        settings = structs.replace(settings, listen=self._passed.resolve(settings.listen))
        fitting, self._endpoints = self._predecessor.meet(settings) if self._predecessor else ({}, Endpoints())
        self._lent = {**self._passed.sockets, **fitting}  # the sockets that this master must not take down
        with ExitStack() as undo:
            undo.callback(self._endpoints.remove)
            self._endpoints.take_pid_file(settings.master.pid_file)
            logs = Logs(settings.log, privileges.owner_of_logs(settings.master))
            logs.apply()
            sockets = sockets_for(self._lent, settings)
            undo.callback(listen.release, sockets, keep=self._lent)
            self._endpoints.take_control(settings.master.control)
            if self._predecessor is None:
                self._endpoints.write(os.getpid())
            self._generations.current = self._generations.make(1, settings, sockets, logs)
            undo.pop_all()
        if warning:
            log.warning("%s", warning)

    def run(self) -> int:
        """Serve until stopped, and return the exit status, which is 1 when the first generation could not boot."""
        loop, children = self._loop, self._children
        children.private += [self._signals.close_in_child, loop.poller.close, self._endpoints.close_in_child]
        if self._daemon is not None:
            children.private.append(self._daemon.close_in_child)
        set_process_title("master")
        loop.spawn(self._obey_signals(), "obeying signals")
        if self._predecessor is None:
            self._claim()
        else:
            children.private.append(self._predecessor.close_in_child)
        loop.spawn(self._boot(), "booting")
        lost = LostLines(self._scoreboard, lambda: self.generation.logs)
        loop.spawn(lost.watch(loop), "telling of lost log lines")
        if self._watch is not None:
            loop.spawn(self._watch.run(), "watching for changes")
        try:
            loop.run()
        finally:
            loop.close()
            listen.release(self.generation.sockets, keep=self._lent)
            self._endpoints.remove()
            lost.tell()
            log.info("stopped" if self._state is State.STOPPING else "left; the new master serves")
            self._signals.ignore_all()
        return self._exit_status

    # ---- signals and commands

    async def _obey_signals(self) -> None:
        obey: dict[Command, Callable[[], object]] = {
            Command.REAP: self._children.reap,
            Command.RELOAD: partial(self._operations.add, Change.RELOAD),
            Command.UPGRADE: partial(self._operations.add, Change.UPGRADE),
            Command.MORE: partial(self._operations.add, Change.SCALE, lambda size: min(size + 1, MOST_WORKERS)),
            Command.FEWER: partial(self._operations.add, Change.SCALE, lambda size: max(size - 1, 1)),
            Command.DRAIN: self._drain,
            Command.REOPEN: self._reopen,
            Command.STOP: self._stop,
            Command.STOP_NOW: partial(self._stop, fast=True),
            Command.NOTHING: lambda: None,
        }
        while True:
            command = await self._signals.next()
            try:
                obey[command]()
            except Exception as error:  # the next commands must be obeyed all the same
                log.error("%s failed: %r", command.name, error, exc_info=error)

    async def _status(self) -> Message:
        last = self._operations.last.get(Change.RELOAD)
        told = await describe(self.generation, self._children, self._scoreboard, self._started, last)
        told["master"] |= {"directory": encodable(self._home.name), "serving": serving(self.generation)}
        return told

    # ---- boot, reload, stop

    @property
    def _is_stopping(self) -> bool:
        return self._state is State.STOPPING

    @property
    def generation(self) -> Generation:
        """The generation that serves, or boots to serve."""
        return self._generations.current

    async def _boot(self) -> None:
        """Start the first generation. Where it cannot start, the server ends."""
        try:
            await self.generation.start()
        except BootError as error:
            if not self._is_stopping:
                self._give_up(error)
            return
        if self._is_stopping:
            return
        if self._predecessor is None:
            self.generation.open()
        else:
            await self._predecessor.gives_way(self._loop)
            if self._is_stopping:  # meanwhile; the predecessor serves on when this master ends
                return
            self._take_over(self._predecessor)
        self._granting = self._loop.spawn(self._operations.grant(self._make), "granting operations")
        if self._predecessor is None:  # else the predecessor has told the manager
            self._manager.ready(standing(self.generation))
        feeding = self._manager.feed(self._loop, lambda patience: self.generation.is_healthy(patience))
        self._loop.spawn(feeding, "feeding the watchdog")
        in_foreground = self._daemon is None and self._predecessor is None
        print_banner(self.generation, in_foreground, self._endpoints.control is not None)
        if self._daemon is not None:
            self._daemon.let_go()

    def _tell_change(self, generation: Generation) -> None:
        """A worker is ready, or has died: tell the service manager how the server stands."""
        if self._state is State.RUNNING and self._granting is not None and generation is self.generation:
            self._manager.status(standing(generation))

    def _take_over(self, predecessor: Predecessor) -> None:
        """Serve in the place of the predecessor, which has given way."""
        self.generation.open()
        self._claim()
        self._lent = {address: self.generation.sockets[address] for address in self._passed.names}
        predecessor.relieve()

    def _claim(self) -> None:
        """Write this master's pid to the pid file, and answer the control socket."""
        with suppress(StartError):  # the disk is full, say; then the control socket must do
            self._endpoints.write(os.getpid())
        if self._answering is None and (control := self._endpoints.control):
            answering = control.serve(self._loop, self._commands.answer)
            self._answering = self._loop.spawn(answering, "serving the control socket")

    def _give_up(self, error: BootError) -> None:
        self._exit_status = 1
        self._stop(fast=True)
        if self._predecessor is None or not self._predecessor.refuse(error):  # the predecessor logs the error
            regret(error, self.generation.settings.log.error != "-" or self._daemon is not None)

    async def _make(self, change: Change, operations: Sequence[Operation]) -> str:
        """Make one change, for all `operations`, and return its outcome in words. Raises PreforkError where nothing has
        changed.
        """
        if change is Change.UPGRADE:
            with self._home.entered():
                return await self._upgrade()
        failed = ""
        try:
            if change is Change.RELOAD:
                self._manager.reloading()
                with self._home.entered():
                    await self._reload()
            else:
                await self._resize(operations)
        except Exception as error:
            failed = f"; the last {change.value} failed: {error}"
            raise
        finally:
            if self._state is State.RUNNING:
                self._manager.ready(standing(self.generation) + failed)
        return standing(self.generation)

    async def _resize(self, operations: Sequence[Operation]) -> None:
        """Have as many workers as the operations come to, until the next reload. Raises BootError where that fails:
        then there are as many as before.
        """
        if self.generation.phase is Phase.LEAVING:
            raise BootError("the workers have been drained; a reload brings new ones")
        size = before = self.generation.size
        for operation in operations:
            size = operation.resize(size) if operation.resize is not None else size
        if size != before:
            if any(address.number for address in self.generation.sockets):
                raise BootError("with reuse_port, scaling needs a reload: set workers.count, then `prefork reload`")
            await self.generation.resize(size)
            log.info("scaled: generation %d serves with %s", self.generation.number, counted(size, "worker"))

    async def _reload(self) -> None:
        """Replace the generation by a new one. Raises PreforkError where that fails: then the old one serves on."""
        current = self.generation
        if self._watch is not None:
            self._watch.forget_bytecode()
        settings = self._load()
        settings = structs.replace(settings, listen=self._passed.resolve(settings.listen))
        if settings.master != current.settings.master:
            log.warning("[master] has changed: that takes effect with the next start or upgrade")
            settings = structs.replace(settings, master=current.settings.master)
        with ExitStack() as undo:
            logs = Logs(settings.log, privileges.owner_of_logs(settings.master))
            undo.callback(logs.close)
            sockets = sockets_for(current.sockets, settings)
            undo.callback(listen.release, sockets, keep=current.sockets)
            modes = undo.enter_context(permissions.permit_all(settings.listen, sockets))
            fresh = self._generations.make(current.number + 1, settings, sockets, logs)
            undo.callback(self._generations.forget, fresh)
            undo.callback(fresh.kill)
            await fresh.start()
            undo.pop_all()
        await self._generations.replace(fresh, modes)

    async def _upgrade(self) -> str:
        """Have a new master take over, and return the outcome in words. Raises BootError where that fails: then nothing
        has changed.
        """
        if os.getpid() == 1:
            raise BootError("the master is process 1, and its container would end with it; use `prefork reload`")
        log.info("upgrading: a new master starts")
        inheritance = Inheritance(self.generation.sockets, self._passed.names, self._endpoints)
        successor = Successor(self._children, self._home.name, self._manager, inheritance)
        try:
            version = await successor.ready()
            if self._answering is not None:
                self._answering.cancel()  # the new master answers the next command
                self._answering = None
            await successor.take_over()
        except BaseException as error:
            successor.end()
            self._claim()
            if isinstance(error, Exception):  # else this master stops, and waits for its children then
                await successor.child.exited.wait()
            raise
        self._state = State.SUCCEEDED
        self._lent = self.generation.sockets
        self._endpoints.lend(True)
        outcome = f"master {successor.child.pid} (prefork {version}) has taken over"
        self._manager.succeeded(successor.child.pid, outcome)
        set_process_title("master, leaving")
        log.info("upgraded: %s; master %d leaves", outcome, os.getpid())
        self._leave(f"{outcome} meanwhile; ask again")
        self._loop.spawn(self._stop_gracefully(), "leaving")
        return outcome

    def _reopen(self) -> str:
        problems = [problem for generation in self._generations.living for problem in generation.logs.reopen()]
        for child in self._children.living:
            child.signal(signal.SIGUSR1)
        return "; ".join(dict.fromkeys(problems))

    def _drain(self) -> None:
        """Have no workers until the next reload or upgrade. Clients wait meanwhile. Nothing happens in a terminal,
        which sends WINCH when its size changes.
        """
        if self._state is State.RUNNING and self.generation.phase is Phase.SERVING and not in_terminal():
            log.info("draining the workers; a reload brings new ones")
            self._loop.spawn(self.generation.drain(), "draining the workers")

    def _stop(self, fast: bool = False) -> None:
        """Stop when the requests under way are done. With `fast`, or when called again, wait for no request. A call
        after that kills all children that are left.
        """
        fast = fast or self._state is State.STOPPING
        leaving = self._state is State.SUCCEEDED
        self._state = State.STOPPING
        if self._predecessor is None or self._granting is not None:  # else the predecessor serves, and goes on
            self._manager.stopping(STOPPING)
        self._leave(STOPPING)
        if self._granting is not None:
            self._granting.cancel()
        if fast:
            self._loop.spawn(self._stop_now(), "stopping at once")
        elif not leaving:
            log.info("stopping: the workers finish the requests under way")
            self._loop.spawn(self._stop_after_notice(), "stopping")

    async def _stop_after_notice(self) -> None:
        """Have the status route say that the server is not ready, serve on for `drain_delay` seconds, in which load
        balancers hear of it, and stop.
        """
        self._scoreboard.stop()
        await self._loop.sleep(self.generation.settings.workers.drain_delay)
        await self._stop_gracefully()

    def _leave(self, reason: str) -> None:
        """Begin nothing any more. Each operation that waits or comes later is refused for this reason."""
        self._operations.refuse(BootError(reason))
        if self._watch is not None:
            self._watch.stop()
        self.generation.leave()  # now: Ctrl-C and service managers end the workers, too, and none is replaced

    async def _stop_gracefully(self) -> None:
        try:
            # the workers still have these sockets, and accept the clients in the queues
            listen.release(self.generation.sockets, keep=self._lent)
            await self.generation.drain()
            for child in self._children.living:  # those of earlier generations have their own time limits
                await child.exited.wait()
        finally:
            self._loop.stop()

    async def _stop_now(self) -> None:
        try:
            await self._generations.end()
        finally:
            self._loop.stop()
