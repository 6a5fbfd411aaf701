"""The control socket: a command sends one JSON object, and the master answers with one, a line each. Owns both ends.

Each end believes only root and its own user, whatever permissions the socket's file has by then.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
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

CLIENT_TIMEOUT = 10.0  # seconds that a client has to send its command, and as many to take the answer
AT_ONCE = {"status": 5.0, "reopen": 5.0}  # seconds that the answer to these commands may take
QUEUE_TIMEOUT = 5.0  # seconds to get into the master's queue, which is full where a stuck master is asked often
LONGEST_REQUEST = 65536  # bytes of a request, at most
LONGEST_REPLY = 16 << 20  # bytes of an answer, at most: 4096 workers and a traceback take fewer


class Reply(msgspec.Struct):
    """The fields that an answer may have; the answer to "status" has its figures besides."""

    ok: bool
    message: str = ""
    report: str = ""
    pid: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] = 0


class ControlSocket:
    """The master's control socket at `path`. While it is `lent`, another master serves it, and will remove it."""

    def __init__(self, path: str, borrowed: socket.socket | None = None) -> None:
        """Binds it with mode 0600, unless a listener is `borrowed`. Raises StartError."""
        self.path = file_paths.absolute(path)
        self.lent = borrowed is not None
        self._listener = borrowed or _bind(self.path, path)
        self._clients: set[Stream] = set()

    def fileno(self) -> int:
        return self._listener.fileno()

    async def serve(self, loop: Loop, answer: Answer) -> None:
        """Accept and answer clients until this task is cancelled. Clients that are connected by then are still
        answered.
        """

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
        """Its file; None where that is not known."""
        return socket_file.of(self._listener)

    def remove(self) -> None:
        """Close it, and remove its file, unless that belongs to another master by now."""
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
                piece = await stream.read(CLIENT_TIMEOUT)
                text += piece
                if not piece or len(text) > LONGEST_REQUEST:
                    return
            try:
                request = msgspec.json.decode(text, type=Message)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                reply: Message = {"ok": False, "message": f"not a JSON object: {error}"}
            else:
                reply = await answer(request)
            await stream.write(msgspec.json.encode(reply) + b"\n", CLIENT_TIMEOUT)
            await stream.read(86400.0)  # until the client or this master leaves: a client may wait for the stop
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
    """Whether the client is another user, whom the file should have kept out, or one that is not known."""
    try:
        return peer.stranger(client) is not None
    except OSError:
        return True


def answers(path: str) -> bool:
    """Whether a server listens at `path`, even one that this user may not connect to."""
    if not socket_file.is_socket(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            return probe.connect_ex(path) in (0, errno.EAGAIN, errno.EACCES)  # EAGAIN: the queue is full
        except (OSError, ValueError):  # `path` is too long for a socket, or has a null byte
            return False


def ask(
    path: str,
    request: Message,
    *,
    queue_timeout: float = QUEUE_TIMEOUT,
    answer_timeouts: Mapping[str, float] = AT_ONCE,
) -> tuple[Message, socket.socket]:
    """Send `request` to the master at `path`. Returns its answer, and the connection, which ends when the master does.
    It may take `queue_timeout` seconds to get into the master's queue, and so many to get the answer as
    `answer_timeouts` has for the command, if any.

    Raises StartError where nobody answers, or where the answer cannot be believed.
    """
    timeout = answer_timeouts.get(request["command"])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return _ask(connection, path, request, queue_timeout, timeout), connection
    except BaseException as error:
        connection.close()
        if not isinstance(error, OSError):
            raise
        raise StartError(_unanswered(path, error)) from None


def _ask(
    connection: socket.socket, path: str, request: Message, queue_timeout: float, timeout: float | None
) -> Message:
    """Send `request`, and return the answer. Raises OSError where nobody answers, and StartError where the answer
    cannot be believed.
    """
    peer.demand_writers(connection)
    # settimeout would make connect(2) non-blocking, and so it would not wait for room in the queue
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_timeval(queue_timeout)))
    connection.connect(path)
    connection.settimeout(timeout)
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
    """Raises StartError where `stranger` is a user: neither root nor this user has answered then."""
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
