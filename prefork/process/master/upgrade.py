"""Upgrade: a new master, of the code of now, takes the place of a running one. Owns the way from the one to the other.

The old master forks a child, which executes the command line that started us once more: so Python and every module are
read anew. The new master inherits the listening sockets, the locked pid file and the control socket; VARIABLE tells it
their descriptors. The two talk through a socket pair, in lines: the new one says when its workers are ready, or why it
cannot serve; the old one gives way; the new one says that it serves, and from then on all that was handed over is its
own. Whatever becomes of it before, the old one has lost nothing; where the old one dies, it takes over at once.
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

VARIABLE = "PREFORK_OFFER"  # in the new master's environment: an Offer as JSON
GIVE_WAY = b"go\n"
START = 60.0  # seconds for a new master to import the server and to read its configuration
MARGIN = 10.0  # seconds beyond its boot_timeout, within which it says itself what is wrong, and tidies up
TIDYING = 2.0  # seconds that one which has failed has to remove what it has made
MOST = 65536  # bytes of what a new master wrote to stderr before it could speak

T = TypeVar("T", PidFile, ControlSocket)


class Offer(msgspec.Struct):
    """What the old master hands over: descriptors, and absolute paths.

    The other end is of another version: fields join with a default, and none ever leaves.
    """

    talk: int
    stderr: int
    sockets: dict[str, int]  # by address
    pid_file: tuple[str, int, bool] | None  # path, descriptor, whether its directory was made for it
    control: tuple[str, int] | None
    groups: dict[str, list[int]] = {}  # with reuse_port: the sockets of an address, in order
    passed: dict[str, str] = {}  # those of the sockets that a service manager has passed: its names for them
    files: dict[str, tuple[int, int]] = {}  # of unix sockets that a master has bound: device and inode, by path

    def descriptors(self) -> list[int]:
        """All of them."""
        groups = (descriptor for group in self.groups.values() for descriptor in group)
        endpoints = (mark[1] for mark in (self.pid_file, self.control) if mark is not None)
        return [self.talk, self.stderr, *endpoints, *self.sockets.values(), *groups]


@dataclass(frozen=True)
class Inheritance:
    """What a master has that outlives it; `names` are those of passed sockets."""

    sockets: Sockets
    names: Mapping[Address, str]
    endpoints: Endpoints


class Word(msgspec.Struct):
    """What the new master says: first how long its workers may take to boot, in seconds; then that they are ready, in
    which `version`; then that it serves. Or at any time, which `problem` keeps it from serving.
    """

    boot_timeout: float = 0.0
    version: str = ""
    problem: str = ""
    traceback: str = ""


class Successor:
    """The new master, as the old one sees it. `ready`, then `take_over`; `end` when either fails."""

    def __init__(self, children: Children, home: str, manager: ServiceManager, inheritance: Inheritance) -> None:
        """Forks it, to start in the directory `home`. Raises BootError."""
        self._children = children
        self._loop = children.loop
        self._lines = Lines()
        self._said: list[bytes] = []  # lines that are not heard yet
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
        self.child.hang_up()  # what it has to say comes through the socket

    def _become_master(self, offer: Offer, home: str, manager: ServiceManager, talk: socket.socket) -> int:
        """In the child: never returns but where there is nothing to execute."""
        try:
            with suppress(OSError):  # it may be gone; then we are where we are
                file_paths.enter(home)
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
        """Wait until it can serve; its version. Raises BootError when it cannot."""
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
        """Give way, and wait until it serves: it is no child of ours any more. Raises BootError when it does not."""
        with suppress(OSError):
            self._talk.send(GIVE_WAY)
        try:
            with self._loop.within(MARGIN):
                await self._hear()
        except TimedOut:
            self.child.signal(signal.SIGKILL)  # it may be about to serve, and to stop then would take down what is ours
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
                await self.child.exited.wait()  # it tidies up
            raise BootError(word.problem, word.traceback)
        return word

    def _written(self) -> str:
        """What it has written to stderr before it could speak to us: that its very modules do not load, say."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), MOST, max(0, size - MOST)).decode(errors="replace")

    def end(self) -> None:
        """Have it remove what it has made, and end. What descends from it ends at once: it serves nobody, and a worker
        that hangs in an import would not notice its master's end.
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
        self._hang_up()  # not before: it would take that for our end, and serve in our place

    def _hang_up(self) -> None:
        self._loop.forget(self._talk.fileno())
        self._children.private.remove(self._talk.close)
        self._talk.close()
        self._stderr.close()


class Predecessor:
    """The old master, as the new one sees it: all that it hands over is lent to us, until we serve in its place.

    `meet` it, then wait until it `gives_way`, then `relieve` it; or `refuse` at any time.
    """

    def __init__(self, offer: Offer) -> None:
        for descriptor in offer.descriptors():
            os.set_inheritable(descriptor, False)  # no application is to pass it on
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
        """The master that has started us, if that is how we were started. To be called once. Raises StartError."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        try:
            return cls(msgspec.json.decode(text, type=Offer))
        except (msgspec.MsgspecError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise StartError(f"{VARIABLE}: expected the offer of a master that upgrades: {error}") from None

    def place(self) -> Place:
        """Where its pid file and its control socket are."""
        return Place(*(mark.path if mark else "" for mark in (self._endpoints.pid_file, self._endpoints.control)))

    def meet(self, settings: Settings) -> tuple[Sockets, Endpoints]:
        """Tell it how long we may take; all of its inheritance that fits `settings`, the sockets by the addresses as
        that calls them. The rest is taken down when we serve.
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
        """A worker must not hold open what is to close when the old master has been relieved."""
        self._talk.close()
        for thing in self._unneeded:
            thing.close_in_child()
        for listener in self._sockets.values():
            listener.close()

    def refuse(self, error: Exception) -> bool:
        """Tell it why we cannot serve. False where we do already, and it is none of its business."""
        report = (
            Report(str(error), getattr(error, "report", "")) if isinstance(error, PreforkError) else describe(error)
        )
        return _send(self._talk, Word(problem=report.problem, traceback=report.traceback))

    async def gives_way(self, loop: Loop) -> None:
        """Tell it that we are ready, and wait until we may serve."""
        _send(self._talk, Word(version=__version__))
        await loop.readable(self._talk.fileno())  # to read GIVE_WAY, or nothing, where it has died
        loop.forget(self._talk.fileno())

    def relieve(self) -> None:
        """Tell it that we serve. All is ours now, and what we do not need is taken down."""
        _send(self._talk, Word())
        self._talk.close()
        self._endpoints.lend(False)
        while self._unneeded:
            self._unneeded.pop().remove()
        listen.release(self._sockets, keep={})


def _command() -> list[str]:
    """The command line that has started us. By -P, `python -m prefork` takes no module from the directory that we are
    in by then, unless that is where prefork itself has come from, as in a checkout.
    """
    by_name = getattr(sys.modules["__main__"], "__spec__", None) is not None
    elsewhere = (finder.find_spec("prefork", None) for finder in sys.meta_path)  # sys.path lacks that directory
    origin = next((spec.origin for spec in elsewhere if spec is not None), None)
    safe = ["-P"] if by_name and origin == prefork.__file__ and not sys.flags.safe_path else []
    return [sys.executable, *safe, *sys.orig_argv[1:]]


def _offer(inheritance: Inheritance, talk: socket.socket, theirs: ExitStack) -> Offer:
    """What the new master is told. Raises OSError."""

    def copy(holder: int | socket.socket | PidFile | ControlSocket) -> int:
        """A descriptor that a child does not close, though it closes what is the master's alone; `theirs` does here."""
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
    else:  # by a version that did not tell
        socket_file.know(listener, path)


def _bound(address: Address, listener: socket.socket) -> Address:
    """Where the listener for this address is bound."""
    file = socket_file.of(listener)
    return _absolute(address) if file is None else Address("unix", path=file.path)


def _absolute(address: Address) -> Address:
    """The same from wherever one looks."""
    return Address("unix", path=file_paths.absolute(address.path)) if address.kind == "unix" else address


def _send(talk: socket.socket, word: Word) -> bool:
    """False where the other one is gone, or has heard all that it is to hear."""
    try:
        talk.sendall(msgspec.json.encode(word) + b"\n")
    except OSError:
        return False
    return True


def _speak_up(stderr: int) -> None:
    """Write to the real stderr from now on, and what has been written to the file in its place, too."""
    early = os.pread(2, MOST, 0)
    os.dup2(stderr, 2)
    os.close(stderr)
    with suppress(OSError):
        os.write(2, early)
