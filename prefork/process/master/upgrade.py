"""Upgrade: a new master, with the code that is installed now, takes over from a running one. Owns the handover, and the
messages between the two.

The old master forks a child, which executes the command line of the old master again. So Python and every module are
loaded anew. The new master inherits the listening sockets, the locked pid file and the control socket; VARIABLE tells
it their descriptors. The two masters talk through a socket pair, in lines. The new one says when its workers are ready,
or why it cannot serve. Then the old one gives way. The new one says that it serves, and owns all that was handed over
from then on. Where the new master fails before that, the old one has lost nothing. Where the old master dies, the new
one takes over as soon as its workers are ready.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import IO, TypeVar

import msgspec
import psutil

import prefork
from prefork import __version__
from prefork.errors import BootError, MalformedMessage, PreforkError, StartError, TimedOut
from prefork.net import file_paths, listen, socket_file
from prefork.net.inherited import Passed
from prefork.net.listen import Sockets
from prefork.net.socket_file import SocketFile
from prefork.process.lines import READ, Lines, decode
from prefork.process.master.control import ControlSocket
from prefork.process.master.endpoints import Endpoints
from prefork.process.master.pid_file import PidFile
from prefork.process.master.runtime_directory import Place
from prefork.process.master.service_manager import ServiceManager
from prefork.process.messages import Report, describe
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.runtime.loop import Loop
from prefork.settings.address import Address
from prefork.settings.schema import Settings

VARIABLE = "PREFORK_OFFER"  # an environment variable of the new master: an Offer as JSON
GIVE_WAY = b"go\n"
START = 60.0  # seconds for a new master to import the server and to read its configuration
MARGIN = 10.0  # seconds beyond its boot_timeout, in which a new master reports by itself why it fails, and cleans up
TIDYING = 2.0  # seconds that a new master which has failed has to remove what it has made
MOST_STDERR = 65536  # bytes quoted of what a new master has written to stderr before it could send a message

T = TypeVar("T", PidFile, ControlSocket)


class Offer(msgspec.Struct):
    """Descriptors and absolute paths that the old master hands over.

    The other master may be of another version. So a new field must have a default, and no field may ever be removed.
    """

    talk: int
    stderr: int
    sockets: dict[str, int]  # by address
    pid_file: tuple[str, int, bool] | None  # path, descriptor, whether its directory was made for it
    control: tuple[str, int] | None  # path, descriptor
    groups: dict[str, list[int]] = {}  # with reuse_port: the sockets of an address, in order
    passed: dict[str, str] = {}  # the service manager's names for the sockets that it has passed, by address
    files: dict[str, tuple[int, int]] = {}  # device and inode of each unix socket that a master has bound, by path

    def descriptors(self) -> list[int]:
        """All descriptors that are handed over."""
        groups = (descriptor for group in self.groups.values() for descriptor in group)
        endpoints = (mark[1] for mark in (self.pid_file, self.control) if mark is not None)
        return [self.talk, self.stderr, *endpoints, *self.sockets.values(), *groups]


@dataclass(frozen=True)
class Inheritance:
    """The resources of a master that outlive it. `names` are the service manager's names for the sockets that it has
    passed.
    """

    sockets: Sockets
    names: Mapping[Address, str]
    endpoints: Endpoints


class Word(msgspec.Struct):
    """A message of the new master. The first says how long its workers may take to boot, in seconds; the second says,
    by `version`, that they are ready; the third, with no field set, says that it serves. At any time, a message may say
    which `problem` keeps the new master from serving.
    """

    boot_timeout: float = 0.0
    version: str = ""
    problem: str = ""
    traceback: str = ""


class Successor:
    """The new master, as the old one sees it. Call `ready`, then `take_over`; call `end` when either fails."""

    def __init__(self, children: Children, home: str, manager: ServiceManager, inheritance: Inheritance) -> None:
        """Forks the new master, which starts in the directory `home`. Raises BootError."""
        self._children = children
        self._loop = children.loop
        self._lines = Lines()
        self._said: list[bytes] = []  # lines that have been read, and not decoded
        with ExitStack() as undo, ExitStack() as theirs:
            try:
                self._talk, talk = socket.socketpair()
                undo.callback(self._talk.close)
                theirs.callback(talk.close)
                self._stderr: IO[bytes] = undo.enter_context(tempfile.TemporaryFile(buffering=0))
                offer = _offer(inheritance, talk, theirs)
            except OSError as error:
                raise BootError(f"cannot hand over: {error.strerror}") from None
            children.private.append(self._talk.close)
            undo.callback(children.private.remove, self._talk.close)
            self.child: Child = children.fork(lambda _: self._become_master(offer, home, manager, talk))
            undo.pop_all()
        self._talk.setblocking(False)
        self.child.hang_up()  # it reports through the socket pair

    def _become_master(self, offer: Offer, home: str, manager: ServiceManager, talk: socket.socket) -> int:
        """In the child: execute the new master. Returns only where that fails."""
        try:
            with suppress(OSError):  # it may have been removed; then the child stays where it is
                file_paths.change_directory(home)
            os.dup2(self._stderr.fileno(), 2)
            for descriptor in offer.descriptors():
                os.set_inheritable(descriptor, True)
            environment = {**os.environ, **manager.environment(), VARIABLE: msgspec.json.encode(offer).decode()}
            os.execve(sys.executable, _command(), environment)
        except OSError as error:
            _send(talk, Word(problem=f"cannot execute {sys.executable}: {error.strerror}"))
        except UnicodeEncodeError as error:
            _send(talk, Word(problem=f"cannot hand over a name that is not UTF-8: {error.object!a}"))
        return os.EX_OSERR

    async def ready(self) -> str:
        """Wait until the new master can serve, and return its version. Raises BootError when it cannot."""
        try:
            with self._loop.within(START):
                boot_timeout = (await self._hear()).boot_timeout
            with self._loop.within(boot_timeout + MARGIN):
                return (await self._hear()).version
        except TimedOut:
            raise BootError(f"the new master {self.child.pid} did not get ready in time", self._written()) from None
        except MalformedMessage as error:
            raise BootError(f"the new master {self.child.pid} sent a malformed message: {error}") from None

    async def take_over(self) -> None:
        """Give way, and wait until the new master serves. Then it is not counted as a child any more. Raises BootError
        when it does not serve.
        """
        with suppress(OSError):
            self._talk.send(GIVE_WAY)
        try:
            with self._loop.within(MARGIN):
                await self._hear()
        except TimedOut:
            self.child.signal(signal.SIGKILL)  # it may be about to serve, and a stop in order would remove what is ours
            raise BootError(f"the new master {self.child.pid} got ready, but did not serve") from None
        self._children.let_go(self.child)
        self._hang_up()

    async def _hear(self) -> Word:
        while not self._said:
            await self._loop.readable(self._talk.fileno())
            with suppress(BlockingIOError, ConnectionResetError):
                piece = self._talk.recv(READ)
                if not piece:
                    await self.child.exited.wait()
                    raise BootError(
                        f"the new master {self.child.pid} died while it booted: {self.child.exit_description}",
                        self._written(),
                    )
                self._said += self._lines.feed(piece)
        word = decode(self._said.pop(0), Word)
        if word.problem:
            with suppress(TimedOut), self._loop.within(MARGIN):
                await self.child.exited.wait()  # it cleans up
            raise BootError(word.problem, word.traceback)
        return word

    def _written(self) -> str:
        """The new master's output to stderr from before it could send a message: an error in its own modules, say."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), MOST_STDERR, max(0, size - MOST_STDERR)).decode(errors="replace")

    def end(self) -> None:
        """Have the new master remove what it has made, and end. Its descendants are killed at once: they serve nobody,
        and a worker that hangs in an import would not notice the end of its master.
        """
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = psutil.Process(self.child.pid).children(recursive=True)
        self.child.signal(signal.SIGINT)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        self._loop.spawn(self._see_it_end(), "waiting for the end of a new master")

    async def _see_it_end(self) -> None:
        try:
            with self._loop.within(TIDYING):
                await self.child.exited.wait()
        except TimedOut:
            self.child.signal(signal.SIGKILL)
            await self.child.exited.wait()
        self._hang_up()  # not before: it would take that for the end of this master, and serve

    def _hang_up(self) -> None:
        self._loop.forget(self._talk.fileno())
        self._children.private.remove(self._talk.close)
        self._talk.close()
        self._stderr.close()


class Predecessor:
    """The old master, as the new one sees it. All that it hands over is lent until the new master serves.

    Call `meet`, then wait for `gives_way`, then call `relieve`; or call `refuse` at any time.
    """

    def __init__(self, offer: Offer) -> None:
        for descriptor in offer.descriptors():
            os.set_inheritable(descriptor, False)  # no program that an application executes may have it
        self._talk = socket.socket(fileno=offer.talk)
        control = None
        if offer.control is not None:
            listener = socket.socket(fileno=offer.control[1])
            _learn_file(offer, listener, offer.control[0])
            control = ControlSocket(offer.control[0], listener)
        self._endpoints = Endpoints(offer.pid_file and PidFile(*offer.pid_file), control)
        self._sockets = {
            Address.parse(text): socket.socket(fileno=descriptor) for text, descriptor in offer.sockets.items()
        }
        for text, descriptors in offer.groups.items():
            for number, descriptor in enumerate(descriptors, 1):
                self._sockets[Address.parse(text).numbered(number)] = socket.socket(fileno=descriptor)
        for address, listener in self._sockets.items():
            if address.kind == "unix" and str(address) not in offer.passed:
                _learn_file(offer, listener, address.path)
        self.passed = Passed(names={Address.parse(text): name for text, name in offer.passed.items()})
        self._unneeded: list[PidFile | ControlSocket] = []
        _speak_up(offer.stderr)

    @classmethod
    def find(cls) -> Predecessor | None:
        """The old master, if an upgrade has started this process; else None. To be called once. Raises StartError."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        try:
            return cls(msgspec.json.decode(text, type=Offer))
        except (msgspec.MsgspecError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise StartError(f"{VARIABLE}: expected the offer of a master that upgrades: {error}") from None

    def place(self) -> Place:
        """The paths of its pid file and its control socket."""
        return Place(*(mark.path if mark else "" for mark in (self._endpoints.pid_file, self._endpoints.control)))

    def meet(self, settings: Settings) -> tuple[Sockets, Endpoints]:
        """Tell the old master how long the boot may take. Returns the part of the handover that fits `settings`: the
        sockets, by the addresses as the settings write them, and the endpoints. `relieve` takes down the rest.
        """
        _send(self._talk, Word(boot_timeout=settings.workers.boot_timeout))
        names = {_absolute(listener.address): listener.address for listener in settings.listen}
        fitting = {
            names[address.numbered(0)].numbered(address.number): self._sockets.pop(address)
            for address in tuple(self._sockets)
            if address.numbered(0) in names
        }
        pid_file = self._fitting(self._endpoints.pid_file, settings.master.pid_file)
        return fitting, Endpoints(pid_file, self._fitting(self._endpoints.control, settings.master.control))

    def _fitting(self, mark: T | None, path: str) -> T | None:
        if mark is None or (path and mark.path == file_paths.absolute(path)):
            return mark
        self._unneeded.append(mark)
        return None

    def close_in_child(self) -> None:
        """In a child: close what this master will close when it serves."""
        self._talk.close()
        for thing in self._unneeded:
            thing.close_in_child()
        for listener in self._sockets.values():
            listener.close()

    def refuse(self, error: Exception) -> bool:
        """Tell the old master why this one cannot serve. False where that cannot hear it: it is gone, or relieved."""
        report = (
            Report(str(error), getattr(error, "report", "")) if isinstance(error, PreforkError) else describe(error)
        )
        return _send(self._talk, Word(problem=report.problem, traceback=report.traceback))

    async def gives_way(self, loop: Loop) -> None:
        """Tell the old master that this one is ready, and wait until it gives way, or dies."""
        _send(self._talk, Word(version=__version__))
        await loop.readable(self._talk.fileno())  # to read GIVE_WAY, or nothing, where it has died
        loop.forget(self._talk.fileno())

    def relieve(self) -> None:
        """Tell the old master that this one serves. This one owns all that was handed over now, and takes down what it
        does not need.
        """
        _send(self._talk, Word())
        self._talk.close()
        self._endpoints.lend(False)
        while self._unneeded:
            self._unneeded.pop().remove()
        listen.release(self._sockets, keep={})


def _command() -> list[str]:
    """The command line that has started this master. -P is added to `python -m prefork`, so that no module is taken
    from the current directory, unless prefork itself was imported from there, as in a checkout.
    """
    by_name = getattr(sys.modules["__main__"], "__spec__", None) is not None
    elsewhere = (finder.find_spec("prefork", None) for finder in sys.meta_path)  # sys.path lacks that directory
    origin = next((spec.origin for spec in elsewhere if spec is not None), None)
    safe = ["-P"] if by_name and origin == prefork.__file__ and not sys.flags.safe_path else []
    return [sys.executable, *safe, *sys.orig_argv[1:]]


def _offer(inheritance: Inheritance, talk: socket.socket, theirs: ExitStack) -> Offer:
    """The Offer for the new master, with duplicates of the descriptors. Raises OSError."""

    def copy(holder: int | socket.socket | PidFile | ControlSocket) -> int:
        """A duplicate: a forked child closes the originals, which only the master may have. `theirs` closes it here."""
        duplicate = os.dup(holder if isinstance(holder, int) else holder.fileno())
        theirs.callback(os.close, duplicate)
        return duplicate

    sockets, pid_file, control = inheritance.sockets, inheritance.endpoints.pid_file, inheritance.endpoints.control
    bound = [*map(socket_file.of, sockets.values()), None if control is None else control.file]
    files = [file for file in bound if file is not None]
    groups: dict[str, list[int]] = {}
    for address in sorted(filter(attrgetter("number"), sockets), key=attrgetter("number")):
        groups.setdefault(str(address), []).append(copy(sockets[address]))
    return Offer(
        talk.fileno(),
        copy(2),
        {str(_bound(address, sockets[address])): copy(sockets[address]) for address in sockets if not address.number},
        None if pid_file is None else (pid_file.path, copy(pid_file), pid_file.made_directory),
        None if control is None else (control.path, copy(control)),
        groups,
        {str(address): name for address, name in inheritance.names.items()},
        {file.path: (file.device, file.inode) for file in files},
    )


def _learn_file(offer: Offer, listener: socket.socket, path: str) -> None:
    if path in offer.files:
        socket_file.entrust(listener, SocketFile(path, *offer.files[path]))
    else:  # the offer of an older version, without `files`
        socket_file.know(listener, path)


def _bound(address: Address, listener: socket.socket) -> Address:
    """The address, with the path at which a unix socket was bound."""
    file = socket_file.of(listener)
    return _absolute(address) if file is None else Address("unix", path=file.path)


def _absolute(address: Address) -> Address:
    """The address, with an absolute path where it is a unix socket."""
    return Address("unix", path=file_paths.absolute(address.path)) if address.kind == "unix" else address


def _send(talk: socket.socket, word: Word) -> bool:
    """Send a message. False where the other master is gone, or where the socket has been closed."""
    try:
        talk.sendall(msgspec.json.encode(word) + b"\n")
    except OSError:
        return False
    return True


def _speak_up(stderr: int) -> None:
    """Write to the real `stderr` from now on, and copy there the output that went to the file in its place."""
    early = os.pread(2, MOST_STDERR, 0)
    os.dup2(stderr, 2)
    os.close(stderr)
    with suppress(OSError):
        os.write(2, early)
