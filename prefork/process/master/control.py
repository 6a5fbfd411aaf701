"""The control socket: a JSON object in, a JSON object out, a line each. The master serves it, commands `ask`.

Either end listens to root and to its own user alone, whatever the permissions of the socket's file have come to be.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from prefork.errors import Disconnected, StartError, TimedOut
from prefork.net import accept, file_paths, listen, peer, socket_file
from prefork.net.socket_file import SocketFile
from prefork.net.stream import Stream
from prefork.process.worker import privileges
from prefork.runtime.loop import Loop
from prefork.settings.address import Address

Message = dict[str, Any]
Answer = Callable[[Message], Awaitable[Message]]

PATIENCE = 10.0  # seconds that a client has to say what it wants, and to read the answer
AT_ONCE = {"status": 5.0, "reopen": 5.0}  # seconds that the answer to these commands may take
IN_QUEUE = 5.0  # seconds to get into a master's queue, which is full where it is stuck and has been asked often
LONGEST = 65536  # bytes of a request
LONGEST_REPLY = 16 << 20  # bytes: 4096 workers and a traceback are less


class Reply(msgspec.Struct):
    """What every answer has, of one sort or the other; that to "status" has figures besides."""

    ok: bool
    message: str = ""
    report: str = ""
    pid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0


class ControlSocket:
    """The master's control socket at `path`. While it is `lent`, it is another master's to serve and to remove."""

    def __init__(self, path: str, borrowed: socket.socket | None = None) -> None:
        """Makes it, mode 0600, unless one that is there already is `borrowed`. Raises StartError."""
        self.path = file_paths.absolute(path)
        self.lent = borrowed is not None
        self._listener = borrowed or _bind(self.path, path)
        self._clients: set[Stream] = set()

    def fileno(self) -> int:
        return self._listener.fileno()

    async def serve(self, loop: Loop, answer: Answer) -> None:
        """Answer whoever asks, until this task is cancelled; who has been let in is answered still."""

        async def room(wanted: bool) -> None:
            pass

        def greet(client: socket.socket, address: object) -> None:
            if _is_strange(client):
                client.close()
                return
            client.setblocking(False)
            stream = Stream(loop, client)
            self._clients.add(stream)
            loop.spawn(self._converse(stream, answer), "a control connection")

        await accept.accept(loop, self._listener, room, greet)

    @property
    def file(self) -> SocketFile | None:
        """Where it is found; None where that is not known."""
        return socket_file.of(self._listener)

    def remove(self) -> None:
        """Close it, and remove its file, unless that is another master's by now."""
        if self.file is not None and not self.lent:
            self.file.remove()
        self._listener.close()

    def close_in_child(self) -> None:
        self._listener.close()
        for stream in self._clients:
            stream.close()

    async def _converse(self, stream: Stream, answer: Answer) -> None:
        try:
            text = b""
            while not text.endswith(b"\n"):
                piece = await stream.read(PATIENCE)
                text += piece
                if not piece or len(text) > LONGEST:
                    return
            try:
                request = msgspec.json.decode(text, type=Message)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                reply: Message = {"ok": False, "message": f"not a JSON object: {error}"}
            else:
                reply = await answer(request)
            await stream.write(msgspec.json.encode(reply) + b"\n", PATIENCE)
            await stream.read(86400.0)  # until the client leaves, or we do: whoever waits for a stop waits for that
        except (Disconnected, TimedOut):
            pass
        finally:
            self._clients.discard(stream)
            stream.close()


def _bind(path: str, told: str) -> socket.socket:
    """A listener at `path`, which the operator knows as `told`. Raises StartError."""
    mask = os.umask(0o177)
    try:
        listener = listen.bind(Address("unix", path=path))
    except StartError as error:
        taken = f"another prefork answers at {told}; give each its own"
        raise StartError(f"master.control: {taken if answers(path) else error}") from None
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


def _is_strange(client: socket.socket) -> bool:
    """Whether it is another user who asks, whom the file should have kept out."""
    try:
        return peer.stranger(client) is not None
    except OSError:
        return True


def answers(path: str) -> bool:
    """Whether somebody is there to be asked, with our permission or without."""
    if not socket_file.is_socket(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            return probe.connect_ex(path) in (0, errno.EAGAIN, errno.EACCES)  # its queue may be full
        except (OSError, ValueError):  # no name of a socket
            return False


def ask(path: str, request: Message) -> tuple[Message, socket.socket]:
    """Send `request` to the master behind `path`; its answer, and the connection, which ends when the master does.

    Raises StartError where nobody answers who is to be believed.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _ask(connection, path, request), connection
    except BaseException as error:
        connection.close()
        if not isinstance(error, OSError):
            raise
        raise StartError(_unanswered(path, error)) from None


def _ask(connection: socket.socket, path: str, request: Message) -> Message:
    """Raises OSError where nobody answers, and StartError where that is nobody to be believed."""
    peer.demand_writers(connection)
    # a non-blocking connect(2), which a time-out of Python's would make it, does not wait for a place at all
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_timeval(IN_QUEUE)))
    connection.connect(path)
    connection.settimeout(AT_ONCE.get(request["command"]))
    _believe(path, peer.stranger(connection))
    connection.sendall(msgspec.json.encode(request) + b"\n")
    text = bytearray()
    while not text.endswith(b"\n"):
        piece, stranger = peer.receive(connection, 65536)
        if not piece:
            raise ConnectionResetError("it closed the connection")
        _believe(path, stranger)
        text += piece
        if len(text) > LONGEST_REPLY:
            raise StartError(f"the master at {path} sends an answer that does not end")
    try:
        msgspec.json.decode(text, type=Reply)
        reply: Message = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StartError(f"the master at {path} sends a malformed answer: {error}") from None
    return reply


def _timeval(seconds: float) -> tuple[int, int]:
    return int(seconds), int(seconds % 1 * 1_000_000)


def _believe(path: str, stranger: int | None) -> None:
    """Raises StartError where it is a stranger who answers."""
    if stranger is not None:
        name = privileges.called(stranger)
        raise StartError(
            f"{path}: the server there runs as {name}, neither as root nor as {privileges.called(os.geteuid())}; "
            f"if that is intended, run this command as {name}"
        )


def _unanswered(path: str, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{path}: no permission; only its owner may use the control socket"
    if isinstance(error, TimeoutError | BlockingIOError):
        return f"the master at {path} does not answer: is it stopped, or stuck?"
    return f"no prefork answers at {path}: is it running, was it started in this directory, with this config?"
