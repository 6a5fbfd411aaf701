"""Load by one process, in two ways. Owns the connections, the times at which requests leave, and their latencies.

`closed_loop`: each connection asks again as soon as it is answered, so a server is as busy as it can be. This tells how
many requests it answers in a second, and little of how long they take: while it stalls, nobody asks.
`open_loop`: requests leave at times that were settled before, whether or not earlier ones are answered, as those of
independent clients do, and a latency counts from the intended time. Where a server stalls, all requests that were due
meanwhile have waited, and are counted so ("coordinated omission" is the mistake of leaving them out).

A request takes 13 us of the generator's own core where many answers come at once, and 60 us where each comes alone: it
makes 17,000 to 70,000 requests a second. Nothing but the standard library and Linux is needed.
"""

from __future__ import annotations

import gc
import math
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

TIMEOUT = 10.0  # seconds for a connection; and after the last request was due, for what is not answered by then
RECEIVED = 64 * 1024  # bytes, the most that is read at once

Span = tuple[float, float]  # from when to when a request took, by time.monotonic()
Request = tuple[str, bytes]  # its kind and what goes over the wire


@dataclass(frozen=True)
class Kind:
    """Requests of one sort: GET of any of `targets`, by lot; `share` is their part of all, beside those of others."""

    name: str
    targets: tuple[str, ...]
    share: float = 1.0


@dataclass
class Result:
    """What became of the requests of the measured time: `seconds` from the moment `began` (monotonic).

    `spans`: by kind, the time that each request took; one without an answer took until nobody waited any longer, and
    `unanswered` counts those. `failed` says what else than 200 came. `answers`: how many came in all, those of the
    warm-up, too. `late`: seconds by which the generator itself was
    late with a request, though a connection was free. `busy`: the generator's share of its core, 0 to 1.
    """

    began: float
    seconds: float
    spans: dict[str, list[Span]]
    unanswered: int
    failed: list[str]
    answers: int
    late: list[float]
    busy: float

    @property
    def rate(self) -> float:
        """Requests per second, each counted by the part of its time that is within the measured time.

        To count answers would be off by a whole batch: eight threads that wait 100 ms answer eight requests at once.
        """
        end = self.began + self.seconds
        within = 0.0
        for since, done in (span for spans in self.spans.values() for span in spans):
            within += max(0.0, min(done, end) - max(since, self.began)) / (done - since)
        return within / self.seconds

    def latency(self, kind: str, percent: float) -> float:
        """Seconds within which this part of the requests of a kind was answered; NaN without any."""
        return percentile([done - since for since, done in self.spans[kind]], percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of the values that is not below `percent` of them (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def closed_loop(
    port: int, kinds: Sequence[Kind], connections: int, seconds: float, warm_up: float = 0.5, seed: int = 1
) -> Result:
    """Ask 127.0.0.1:`port` on so many connections, each again at once. Raises OSError where it does not accept."""
    draw = lots(kinds, random.Random(seed))
    with pool(port, connections) as clients:
        began = time.monotonic() + warm_up
        end = began + seconds
        while (now := time.monotonic()) < end:
            while clients.free:
                clients.send(*draw(), now)
            clients.receive(end - now)
        clients.finish(end + TIMEOUT)
        return clients.result(kinds, began, seconds, lambda span: span[1] > began)


def open_loop(
    port: int,
    kinds: Sequence[Kind],
    rate: float,
    connections: int,
    seconds: float,
    warm_up: float = 0.5,
    even: bool = False,
    seed: int = 1,
) -> Result:
    """Ask 127.0.0.1:`port` at `rate` requests a second, which come by chance (Poisson) or, `even`, at one interval.

    Times and kinds are the same in each run of one seed. A request waits where no connection is free, and its time
    runs. Raises OSError where the server does not accept.
    """
    chance = random.Random(seed)
    draw = lots(kinds, chance)
    due: deque[tuple[float, Request]] = deque()
    offset = 0.0
    while (offset := offset + (1 / rate if even else chance.expovariate(rate))) < warm_up + seconds:
        due.append((offset, draw()))
    with pool(port, connections) as clients:
        start = time.monotonic()
        began = start + warm_up
        end = began + seconds
        while due and (now := time.monotonic()) < end + TIMEOUT:
            while due and clients.free and start + due[0][0] <= now:
                offset, request = due.popleft()
                clients.send(*request, start + offset)
            next_due = start + due[0][0] if due and clients.free else end + TIMEOUT
            clients.receive(next_due - time.monotonic())
        clients.finish(end + TIMEOUT)
        for offset, (kind, _) in due:
            clients.give_up(kind, start + offset)
        return clients.result(kinds, began, seconds, lambda span: span[0] >= began)


def lots(kinds: Sequence[Kind], chance: random.Random) -> Callable[[], Request]:
    """What draws the next request, each kind as often as its share says."""
    wires = [
        [(kind.name, f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()) for target in kind.targets]
        for kind in kinds
    ]
    shares = [kind.share for kind in kinds]
    return lambda: chance.choice(chance.choices(wires, shares)[0])


@dataclass(slots=True)
class Connection:
    """One kept connection: the request under way on it, if `kind` names one, and how much of the answer is here."""

    socket: socket.socket
    kind: str = ""
    wire: bytes = b""
    since: float = 0.0  # when the request was due
    received: bytes = b""
    answered: int = 0
    free_since: float = 0.0


class Clients:
    """So many connections to 127.0.0.1:`port`, those without a request in `free`, the longest free one first."""

    def __init__(self, port: int, connections: int) -> None:
        self.free: deque[Connection] = deque()
        self._port = port
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._spans: dict[str, list[Span]] = {}
        self._unanswered: list[Span] = []
        self._failed: list[str] = []
        self._late: list[float] = []
        self._clocks = 0.0, 0.0
        for _ in range(connections):
            self.free.append(self._watch(Connection(connect(port))))
        self._clocks = time.monotonic(), time.process_time()

    def close(self) -> None:
        for connection in self._open.values():
            connection.socket.close()
        self._epoll.close()

    def send(self, kind: str, wire: bytes, since: float) -> None:
        """Send a request that was due then on a free connection."""
        connection = self.free.popleft()
        connection.kind, connection.wire, connection.since = kind, wire, since
        self._late.append(time.monotonic() - max(since, connection.free_since))
        self._send(connection)

    def receive(self, seconds: float) -> None:
        """Take the answers that are here by then: return with the first ones."""
        # The time of epoll_wait(2) is in whole milliseconds, too coarse for the next request.
        if seconds > 0:
            select.select((self._epoll,), (), (), seconds)
        for number, _ in self._epoll.poll(0):
            connection = self._open[number]
            try:
                piece = connection.socket.recv(RECEIVED)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            if not piece:
                self._lost(connection)
                continue
            connection.received += piece
            if is_whole(connection.received):
                self._answered(connection)

    def finish(self, until: float) -> None:
        """Wait for what is under way, but no longer than until then."""
        while len(self.free) < len(self._open) and (now := time.monotonic()) < until:
            self.receive(until - now)
        for connection in self._open.values():
            if connection.kind:
                self.give_up(connection.kind, connection.since)

    def give_up(self, kind: str, since: float) -> None:
        """Count a request of then as one without an answer."""
        span = since, time.monotonic()
        self._spans.setdefault(kind, []).append(span)
        self._unanswered.append(span)

    def result(self, kinds: Sequence[Kind], began: float, seconds: float, counts: Callable[[Span], bool]) -> Result:
        """All of it, as far as it counts."""
        at, used = self._clocks
        return Result(
            began,
            seconds,
            {kind.name: [*filter(counts, self._spans.get(kind.name, ()))] for kind in kinds},
            len([*filter(counts, self._unanswered)]),
            self._failed,
            sum(map(len, self._spans.values())) - len(self._unanswered),
            self._late,
            (time.process_time() - used) / (time.monotonic() - at),
        )

    def _send(self, connection: Connection) -> None:
        try:
            connection.socket.send(connection.wire)
        except OSError:
            self._lost(connection)

    def _answered(self, connection: Connection) -> None:
        now = time.monotonic()
        if connection.received.startswith(b"HTTP/1.1 200 "):
            self._spans.setdefault(connection.kind, []).append((connection.since, now))
        else:
            self._failed.append(f"{connection.kind} got {connection.received[:200]!r}")
        connection.answered += 1
        self._release(connection, now)

    def _release(self, connection: Connection, now: float) -> None:
        connection.kind, connection.received, connection.free_since = "", b"", now
        self.free.append(connection)

    def _lost(self, connection: Connection) -> None:
        """The other end has closed it. A kept one may be closed as the next request leaves: that is asked once more."""
        repeat = connection.kind and connection.answered and not connection.received
        del self._open[connection.socket.fileno()]
        connection.socket.close()
        connection.socket, connection.answered = connect(self._port), 0
        self._watch(connection)
        if repeat:
            self._send(connection)
        elif connection.kind:
            self._failed.append(f"{connection.kind} was cut off after {connection.received[:200]!r}")
            self._release(connection, time.monotonic())

    def _watch(self, connection: Connection) -> Connection:
        self._open[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setblocking(False)
    return client


@contextmanager
def pool(port: int, connections: int) -> Iterator[Clients]:
    """Clients, closed in the end; meanwhile no garbage collection stops them."""
    clients = Clients(port, connections)
    gc.disable()
    try:
        yield clients
    finally:
        gc.enable()
        clients.close()


def is_whole(data: bytes) -> bool:
    """Whether this is a whole response: counted, or with its last chunk at the end. One without either has no end."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[: end + 2].lower()
    counted = head.find(b"\r\ncontent-length:")
    if counted >= 0:
        return len(data) >= end + 4 + int(head[counted + 17 : head.index(b"\r\n", counted + 17)])
    return data.endswith(b"\r\n0\r\n\r\n")
