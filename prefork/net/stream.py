"""One non-blocking connected socket: read, write, send a file, hang up. Owns the socket and the bytes read too far.

Everything that the peer's end does to us (reset, abort, silence while we write) is Disconnected: an event, not a fault.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from time import monotonic

from prefork.errors import CutShort, Disconnected, TimedOut
from prefork.runtime.loop import Loop
from prefork.runtime.task import PAUSE

READ_SIZE = 65536
SLICE = 512 * 1024  # bytes that one connection may send before the others have a turn
GRACE = 5.0  # seconds for which a peer may be slower than its minimum rate: a start, a stall, a handover
LOOK_INTERVAL = 1.0  # seconds between two looks whether a peer that has sent too much is still there
LINGER = 2.0  # seconds that the peer has to read the rest of what we have sent
UNREACHABLE = (errno.ENOTCONN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN)
LINGER_BYTES = 64 * 1024 * 1024  # 20 ms of reading: a peer that uploads too much finishes, and then learns it

_MORE = getattr(socket, "MSG_MORE", 0)  # Linux: these bytes wait for the next ones, and share their packet

# poll(2): POLLRDHUP is Linux's word for a hang-up behind unread bytes; other systems say POLLHUP
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP


class Pace:
    """How long to wait for a peer. It must move something within `timeout` seconds, and at least `rate` bytes for each
    second that we wait for it (0: any), with `grace` seconds in hand.

    A peer that moves more may pause later, but cannot save up more than one `timeout`: else a burst of 300 kB would buy
    20 minutes of one byte now and then.
    """

    __slots__ = ("_grace", "_left", "_rate", "_timeout")

    def __init__(self, rate: int, timeout: float, grace: float = GRACE) -> None:
        self._grace = grace
        self._rate = rate
        self._timeout = timeout
        self._left = grace

    def moved(self, count: int) -> None:
        if self._rate:
            self._left = min(self._left + count / self._rate, max(self._grace, self._timeout))

    def waited(self, seconds: float) -> None:
        self._left -= seconds

    @property
    def patience(self) -> float:
        """Seconds until it has moved too little: negative when that is so already."""
        return min(self._timeout, self._left) if self._rate else self._timeout


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a Stream. A peer has `linger` seconds to read the rest of what we have sent, and may send
    `linger_bytes` meanwhile. Every `look_interval` seconds, a look finds out whether a peer that has sent too much is
    still there. For `grace` see Pace.
    """

    grace: float = GRACE
    linger: float = LINGER
    linger_bytes: int = LINGER_BYTES
    look_interval: float = LOOK_INTERVAL


BOUNDS = Bounds()


class Stream:
    """The only door to a connected socket: nothing above it reads, writes or sees one.

    `unread` is input that was received and not consumed, such as the beginning of the next message. `sent` counts
    the bytes handed to the kernel since somebody last set it to 0. `min_rate` is the bytes that the peer must take a
    second, see Pace.

    `recv` and `send` are for the hot path alone (http/h1/connection.py): there, would-block is BlockingIOError, and an
    end of the peer any other OSError. All others go by `try_read` and `try_write`.
    """

    __slots__ = ("_bounds", "_loop", "_min_rate", "_socket", "fd", "readable", "recv", "send", "sent", "unread")

    def __init__(self, loop: Loop, connected: socket.socket, min_rate: int = 0, bounds: Bounds = BOUNDS) -> None:
        self._bounds = bounds
        self._min_rate = min_rate
        self._loop = loop
        self._socket = connected
        self.fd = connected.fileno()
        self.readable = loop.readable(self.fd)
        self.recv = connected.recv
        self.send = connected.send
        self.unread = b""
        self.sent = 0

    def pace(self, rate: int, timeout: float) -> Pace:
        """How long to wait for the peer, see Pace."""
        return Pace(rate, timeout, self._bounds.grace)

    def try_read(self, size: int = READ_SIZE) -> bytes | None:
        """The bytes that have arrived, `size` at most; b"" at the end, None if there are none. Raises Disconnected."""
        try:
            return self.recv(size)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Disconnected(str(error)) from None

    def try_write(self, data: bytes | memoryview, more: bool = False) -> int:
        """Hand to the kernel as much of `data` as it takes without waiting; for `more` see `write`. Returns how many
        bytes it has taken, 0 for none. `sent` does not count them. Raises Disconnected.
        """
        try:
            return self.send(data, _MORE) if more else self.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Disconnected(str(error)) from None

    async def read(self, timeout: float) -> bytes:
        """Some bytes as soon as there are any, b"" at the end. Raises TimedOut (`timeout` seconds), Disconnected.

        A `timeout` that is over already raises TimedOut without a look at the input. Input that has arrived is never
        timed out, so a peer that always has a byte on its way would else be read for ever.
        """
        if timeout <= 0:
            raise TimedOut
        task = self._loop.current
        task.deadline = monotonic() + timeout  # not the loop's now: an application may have held this turn up
        while True:
            await self.readable
            data = self.try_read()
            if data is not None:
                task.deadline = inf
                return data

    async def write(self, data: bytes | memoryview, timeout: float, more: bool = False) -> None:
        """Hand all of `data` to the kernel. With `more`, other bytes follow at once, and the last of `data` wait for
        them (MSG_MORE).

        Raises Disconnected when the peer is gone, takes nothing for `timeout` seconds, or less than its minimum rate.
        """
        view = memoryview(data)
        pace = self.pace(self._min_rate, timeout)
        sliced = 0
        while view:
            sent = self.try_write(view[:SLICE], more)
            if not sent:
                await self._room(pace, timeout)
                sliced = 0
                continue
            view = view[sent:]
            self.sent += sent
            pace.moved(sent)
            sliced += sent
            if view and sliced >= SLICE:
                await PAUSE
                sliced = 0

    def try_send_file(self, head: bytes, file: int, offset: int, count: int) -> bool:
        """Send `head` and `count` bytes of the open file, as far as the kernel takes them without waiting, up to SLICE
        of the file. Returns whether that was all. `sent`, which must be 0 before, tells how much it was. A failure here
        is not told: it comes again, and is told, when the rest is sent.

        The hot path of a file that fits into the socket's buffer: 2 us less than by coroutines.
        """
        try:
            self.sent = self.send(head, _MORE)
            if self.sent < len(head):
                return False
            sent = os.sendfile(self.fd, file, offset, min(count, SLICE))
        except OSError:
            return False
        self.sent += sent
        return sent == count

    async def send_file(self, file: int, offset: int, count: int, timeout: float) -> None:
        """Send `count` bytes of the open file from `offset` on, which do not pass through this process (sendfile(2)).

        Raises Disconnected as `write` does, CutShort when the file ends before `count` bytes, and the file's OSError.
        """
        pace = self.pace(self._min_rate, timeout)
        while count:
            try:
                sent = os.sendfile(self.fd, file, offset, min(count, SLICE))
            except BlockingIOError:
                await self._room(pace, timeout)
                continue
            except OSError as error:
                if isinstance(error, (ConnectionError, TimeoutError)) or error.errno in UNREACHABLE:
                    raise Disconnected(str(error)) from None
                raise
            if not sent:
                raise CutShort
            offset += sent
            count -= sent
            self.sent += sent
            pace.moved(sent)
            if count:
                await PAUSE

    async def _room(self, pace: Pace, timeout: float) -> None:
        task, began = self._loop.current, monotonic()
        task.deadline = began + pace.patience
        try:
            if pace.patience <= 0:
                raise TimedOut
            await self._loop.writable(self.fd)  # made when it is needed, which is rare: 80 bytes less a connection
        except TimedOut:
            raise Disconnected(f"the peer took too little, or nothing for {timeout:g} s") from None
        task.deadline = inf
        pace.waited(monotonic() - began)

    async def hangup(self) -> None:
        """Wait until the peer hangs up. Its input meanwhile is kept in `unread`, up to READ_SIZE or so. Further input
        stays in the kernel, and a look every `look_interval` seconds finds the hang-up behind that.
        """
        while len(self.unread) < READ_SIZE:
            await self.readable
            try:
                data = self.try_read()
            except Disconnected:
                return
            if data is None:
                continue
            if not data:
                return
            self.unread += data
        while not self.has_left:
            await self._loop.sleep(self._bounds.look_interval)

    @property
    def has_left(self) -> bool:
        """True when the peer has hung up, even if some of its input is unread, or when we have. From any thread."""
        if self._socket.fileno() < 0:  # and its number may be another's
            return True
        poll = select.poll()
        poll.register(self.fd, _HANGUP)
        return bool(poll.poll(0))

    async def linger(self) -> None:
        """Say that nothing follows, and let the peer read everything before `close`.

        A close with unread input would make the kernel send a reset, which takes the answer away from a peer that has
        not read it yet (RFC 9112 §9.6). So its further input is read and dropped, within `linger` seconds
        and `linger_bytes`.
        """
        bounds = self._bounds
        until = monotonic() + bounds.linger
        dropped = 0
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while dropped < bounds.linger_bytes and (left := until - monotonic()) > 0:
                data = await self.read(left)
                if not data:
                    return
                dropped += len(data)
        except (OSError, Disconnected, TimedOut):
            return

    def close(self) -> None:
        if self._socket.fileno() >= 0:  # else it is closed, and its number may be another's
            self._loop.forget(self.fd)
            self._socket.close()

    def close_in_child(self) -> None:
        """In a forked process: close its copy, which would keep the peer from seeing our end."""
        self._socket.close()

    def reset_on_close(self) -> None:
        """Make `close` a reset (SO_LINGER of 0 seconds), so that the peer cannot take a part of the answer for all."""
        with suppress(OSError):  # macOS: EINVAL where the peer has been faster
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
