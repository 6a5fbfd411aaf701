"""A WebSocket conversation (RFC 6455, RFC 7692) on a connection of ours; the `websockets` package does the frames.

Owns the queues of both directions: the messages that the application has not taken yet, and the bytes that the client's
socket has not taken yet. Owns the clock of pings and closing, too. The connection's task reads. Any task sends at once;
bytes that do not fit are sent by a task of their own, which ends with them. Both queues are bounded: while either has
too much in it, no bytes are read, nor parsed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from time import monotonic

from websockets.exceptions import ProtocolError
from websockets.extensions import Extension
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from prefork.errors import Disconnected, TimedOut
from prefork.http.message import Upgrade
from prefork.http.websocket.library_log import LIBRARY_LOG
from prefork.http.websocket.memory import SMALL, Memory
from prefork.net.stream import Stream
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, PAUSE, Task
from prefork.settings.schema import Websocket

# bytes that wait to be taken, or to be sent; beyond it the connection reads nothing, and the application should wait
HIGH_WATER = 64 * 1024
OVERHEAD = 64  # bytes that a message counts beside its own, so that many empty ones count, too
PORTION = 4096  # bytes parsed at once, of a client whose frames are not tiny
# the same where frames may be compressed (RFC 7692): it inflates to 1 MiB, beside a message that began before it
COMPRESSED = 1024
TINY = 512  # the same once a portion has had more than BUSY frames or BUSY_BYTES: up to 85 empty frames, 0.4 ms
BUSY = 32  # frames in a portion, beyond which the other tasks have a turn
BUSY_BYTES = 256 * 1024  # bytes that a portion was inflated to, beyond which they have a turn, too
CLOSING = 2.0  # seconds that a client has to answer a close frame
RESTART = "service restart"  # the reason that goes with 1012
ABNORMAL = Close(1006, "")  # the connection ended without a closing handshake (RFC 6455 §7.1.5)


def _nothing() -> None:
    pass


class WebSocket(Upgrade):
    """One conversation.

    `changed` is called when a message has come, when there is room again to send, and at the end. `closed` is how it
    ended, as soon as that is known. From then on no message arrives, though some may still be there to `take`, and a
    message that is `put` is lost.
    """

    protocol = "websocket"

    def __init__(
        self,
        loop: Loop,
        settings: Websocket,
        send_timeout: float,
        extensions: Sequence[Extension] = (),
        memory: Memory | None = None,
    ) -> None:
        """All WebSockets of a worker share one `memory`."""
        self.changed: Callable[[], None] = _nothing
        self.closed: Close | None = None
        self._loop = loop
        self._settings = settings
        self._send_timeout = send_timeout
        self._frames = Protocol(Side.SERVER, state=State.OPEN, max_size=settings.max_message, logger=LIBRARY_LOG)
        self._frames.extensions = list(extensions)
        self._stream: Stream | None = None
        self._reader: Task | None = None  # the connection's
        self._writer: Task | None = None
        self._came: deque[str | bytes] = deque()
        self._untaken = 0  # bytes of them, with OVERHEAD for each
        self._partial = bytearray()  # a message in fragments
        self._is_text = False
        self._in_message = False  # a message has begun and is not whole
        self._whole_by = inf  # when the message that has begun to arrive must be whole
        self._memory = memory or Memory(settings)
        self._is_heavy = False  # it holds more than SMALL, and is counted there
        self._portion = COMPRESSED if extensions else PORTION
        self._outgoing: list[bytes] = []
        self._unsent = 0  # bytes of them, and of those that the writer is sending
        self._over = False  # no more is read
        self._pinged = 0.0  # when the unanswered ping was sent; 0: there is none
        self._next_ping = inf
        self._leave = inf  # when to close because the server is leaving
        self._end = inf  # when to stop waiting for the client's close frame

    # ---- for the application; no call waits

    def take(self) -> str | bytes | None:
        """The next message; None while there is none."""
        if not self._came:
            return None
        message = self._came.popleft()
        self._untaken -= len(message) + OVERHEAD
        if self._is_heavy:
            self._weigh()
        self._wake()
        return message

    def put(self, message: str | bytes) -> None:
        """Send a message. The caller should wait first while `congested`."""
        if self._frames.state is not State.OPEN:
            return
        if isinstance(message, str):
            self._frames.send_text(message.encode())
        else:
            self._frames.send_binary(message)
        self._flush()

    @property
    def congested(self) -> bool:
        """True while too many bytes wait to be sent. `changed` is called when that is over."""
        return self._unsent > HIGH_WATER and self.closed is None

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake, unless it has begun. Raises ValueError for an invalid code or reason."""
        if self._frames.state is not State.OPEN:
            return
        try:
            self._frames.send_close(code, reason)
        except ProtocolError as error:
            raise ValueError(f"a close frame with {code}, {reason!r}: {error}") from None
        self._flush()

    # ---- the connection's side

    async def converse(self, stream: Stream) -> None:
        self._stream, self._reader = stream, self._loop.current
        self._next_ping = monotonic() + self._settings.ping_interval
        self._flush()  # messages that were put before the head was sent
        self._await_close()
        try:
            await self._read(stream)
            while self._writer is not None:
                await self._pause()
        except Disconnected:
            pass
        finally:
            self._finish()

    def drain(self, seconds: float) -> None:
        self._leave = monotonic() + seconds
        self._hurry(self._leave)

    async def aclose(self) -> None:
        self._finish()

    async def _read(self, stream: Stream) -> None:
        """Read until either side has closed. Raises Disconnected where the client hangs up or does not answer."""
        data, stream.unread = stream.unread, b""
        while True:
            at = 0
            while at < len(data):
                end = at + self._portion
                self._frames.receive_data(data[at:end])
                if self._handle(self._frames.events_received()):
                    self._portion = TINY
                    with suppress(TimedOut):  # a deadline that `_hurry` has set
                        await PAUSE
                await self._room()
                at = end
            if self._over:
                return
            data = b""
            try:
                data = await stream.read(self._due() - monotonic())
            except TimedOut:
                self._tick()
                continue
            if not data:
                raise Disconnected("the client hung up without a close frame")

    async def _room(self) -> None:
        """Wait until both queues have room, and move the client's deadline by that time. Raises Disconnected."""
        if self._untaken <= HIGH_WATER and self._unsent <= HIGH_WATER:
            return
        began, due, self._whole_by = monotonic(), self._whole_by, inf
        while not self._over and (self._untaken > HIGH_WATER or self._unsent > HIGH_WATER):
            self._pinged = 0.0  # its answer may be among the bytes that are not read
            await self._pause()
        self._whole_by = due + monotonic() - began

    async def _pause(self) -> None:
        """Wait to be woken, or until `_tick` has something to do. Raises Disconnected."""
        task = self._loop.current
        task.deadline = self._due()
        try:
            await PARKED
        except TimedOut:
            self._tick()
        finally:
            task.deadline = inf

    def _due(self) -> float:
        """When `_tick` has something to do next."""
        if self._over:
            return inf  # the writer has a timeout of its own
        if self._frames.state is not State.OPEN:
            return self._end
        pong = self._pinged + self._settings.ping_timeout if self._pinged else inf
        return min(self._leave, self._next_ping, pong, self._whole_by)

    def _tick(self) -> None:
        """Ping or close, where that is due. Raises Disconnected where a close frame was not answered in time."""
        now = monotonic()
        if self._over:
            return
        if self._end <= now:
            raise Disconnected("the client has not answered a close frame")
        if self._frames.state is not State.OPEN:
            return
        if self._leave <= now:
            self.close(1012, RESTART)
        elif self._whole_by <= now:
            self._fail(1008, f"no whole message within {self._settings.message_timeout:g} s")
        elif self._pinged and self._pinged + self._settings.ping_timeout <= now:
            self._fail(1011, f"no pong within {self._settings.ping_timeout:g} s")
        elif self._next_ping <= now:
            self._next_ping = now + self._settings.ping_interval
            if not self._pinged and not self._unsent:
                self._pinged = now
                self._frames.send_ping(b"")
                self._flush()

    def _handle(self, frames: Sequence[object]) -> bool:
        """Take in the frames that have come. True where they were so many that the other tasks must have a turn."""
        before, size = len(self._came), 0
        for frame in frames:
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.PONG:
                self._pinged = 0.0
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and self.closed is None:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._in_message = True
                self._partial += frame.data
                size += len(frame.data)
                if frame.fin and not self._complete():
                    break
        self._flush()
        self._weigh()
        if len(self._came) > before:
            self.changed()
        return len(frames) > BUSY or size > BUSY_BYTES

    def _complete(self) -> bool:
        """Queue the message, which is whole. False where it is text and not valid UTF-8 (RFC 6455 §8.1)."""
        self._in_message, self._whole_by = False, inf
        data = bytes(self._partial)
        self._partial.clear()
        message: str | bytes = data
        if self._is_text:
            try:
                message = data.decode()
            except UnicodeDecodeError as error:
                self._fail(1007, f"{error.reason} at position {error.start}")
                return False
        self._came.append(message)
        self._untaken += len(message) + OVERHEAD
        return True

    def _weigh(self) -> None:
        """Count the bytes that are held for the client, and note when the message that has begun must be whole."""
        partial = len(self._partial) + len(self._frames.reader.buffer)
        if not partial and not self._in_message:
            self._whole_by = inf
        elif self._whole_by == inf:
            self._whole_by = monotonic() + self._settings.message_timeout
        self._count(partial + self._untaken)

    def _count(self, held: int) -> None:
        if held > SMALL or self._is_heavy:
            self._is_heavy = held > SMALL
            self._memory.note(self, held)

    def forget(self) -> None:
        """Drop the messages, as the application will not take them. Until then they stay, even if the client left."""
        self._came.clear()
        self._untaken = 0
        self._count(0)
        self._wake()

    def shed(self) -> None:
        """Drop all messages and close, as the worker holds too much, and most of it for this client (memory.py)."""
        self._partial.clear()
        self._came.clear()
        self._untaken = 0
        self._fail(1013, "too much that is not received")

    def _fail(self, code: int, reason: str) -> None:
        if self._frames.state is State.OPEN:
            self._frames.fail(code, reason)
            self._flush()

    # ---- sending

    def _flush(self) -> None:
        """Send the outgoing frames as far as they fit, and let a task send the rest."""
        for data in self._frames.data_to_send():
            if data:
                self._outgoing.append(data)
                self._unsent += len(data)
            else:
                self._over = True  # an empty string stands for the end of the stream
        if self._outgoing and self._writer is None and self._stream is not None:
            self._send_now(self._stream)
        if self._frames.state is not State.OPEN:
            self._settle()

    def _send_now(self, stream: Stream) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        sent = 0
        with suppress(Disconnected):  # the reader or the writer meets it again
            sent = stream.try_write(data)
        stream.sent += sent
        self._left(sent)
        if sent < len(data):
            self._outgoing.append(data[sent:])
            self._writer = self._loop.spawn(self._write(stream), "writing to a WebSocket")

    def _left(self, count: int) -> None:
        """Note that the kernel has taken `count` bytes. Tasks that wait for room look again."""
        was_full = self._unsent > HIGH_WATER
        self._unsent -= count
        if was_full and self._unsent <= HIGH_WATER:
            self._wake()
            self.changed()

    async def _write(self, stream: Stream) -> None:
        """Send the bytes that did not fit, in a task of its own, which ends when none is left."""
        try:
            while self._outgoing:
                data = b"".join(self._outgoing)
                self._outgoing.clear()
                await stream.write(data, self._send_timeout)
                self._left(len(data))
        except Disconnected:
            self._over = True
            self._settle()
            self._hurry(0.0)
        finally:
            self._writer = None
            self._await_close()
            self._wake()

    # ---- the end

    def _settle(self) -> None:
        """Set `closed`, once, to the close frame of the side that closed first, or to ABNORMAL."""
        if self.closed is None:
            frames = self._frames
            first = frames.close_rcvd if frames.close_rcvd_then_sent else frames.close_sent
            self.closed = first or ABNORMAL
            self._await_close()
            self.changed()

    def _await_close(self) -> None:
        """Give the client CLOSING seconds to answer our close frame, once that is sent."""
        if self.closed is not None and self._writer is None:
            self._end = monotonic() + CLOSING
            self._hurry(self._end)

    def _finish(self) -> None:
        self._over = True
        self._stream = None
        if self._writer is not None:
            self._writer.cancel()
        self._outgoing.clear()
        self._settle()
        self._reader = None
        self._partial.clear()
        self._frames.reader.buffer.clear()
        self._count(self._untaken)

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.wake()

    def _hurry(self, when: float) -> None:
        """Have the reader look at the clock at `when`, unless it will do so earlier."""
        if self._reader is not None:
            self._reader.deadline = min(self._reader.deadline, when)
