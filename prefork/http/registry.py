"""The registry of one worker's connections: it counts them in and out, makes room for new ones, and drains them.

Owns the set of the open connections and the objects that they share; never reads or writes one of them, and does not
know which version of HTTP it speaks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from itertools import islice
from math import inf
from time import monotonic
from typing import Protocol

from prefork.errors import TooManyConnections
from prefork.http.body_limit import BodyLimit
from prefork.http.exchange import Exchange, Phase
from prefork.http.forwarded import Forwarding
from prefork.http.message import Client, Handler, Request, Response
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.runtime.task import PAUSE, Task
from prefork.settings.schema import MOST_CONNECTIONS, Http
from prefork.shared.activity import Activity
from prefork.shared.counters import ACCEPTED, CONNECTIONS

LASTING = 1.0  # seconds after which a WebSocket, or a response that is being sent, is taken to hold its place for long
LAME_DUCK = 1.0  # seconds that an idle connection stays open in a drain: its client may be sending at this very moment

Limit = Callable[[Request], BodyLimit | None]
Find = Callable[[Request], Handler]
WithErrorPage = Callable[[Response], Response]
Record = Callable[[Client, Request | None, int, int, int, float], None]


class ServedConnection(Protocol):
    """The part of a connection, of any version of HTTP, that the registry uses.

    It is `idle` while it has no exchange; `since` is when that began (monotonic seconds). For `busy_until` see
    shared/activity.py.
    """

    client: Client
    idle: bool
    since: float
    busy_until: float

    @property
    def exchanges(self) -> Iterable[Exchange]:
        """Those under way: at most one in HTTP/1. To be called from any thread."""

    @property
    def has_asked(self) -> bool:
        """True where bytes have arrived that were not read."""

    def end_idle(self, at: float = -inf) -> None:
        """End it at `at` (monotonic seconds), if it is still idle then. Only for an idle connection."""

    def cut(self) -> None:
        """Send no more of the responses under way: the close will tell the client that they are not whole."""

    def abort(self) -> None:
        """Cut it, and end its tasks, except those which another thread has or has not begun."""

    def close_in_child(self) -> None:
        """In a forked process: close its copy of the socket."""


class Server:
    """The objects that the connections of one worker share.

    `find` gives the handler of a request. `record` writes the access log (None: it is off). `board` is the worker's
    page of the scoreboard (see shared/counters.py). `with_error_page` gives the operator's page in place of one of the
    server's own responses, if there is one. `limit` is how many connections there should be; the `vital` handlers
    answer beyond it, too. A Repeatable response of a handler in `repeatable` may be sent again without the handler
    being asked. `limit_of_route` gives the limit on a request's body that its route sets, or None. In a drain, an idle
    connection stays open for `lame_duck` seconds.
    """

    def __init__(
        self,
        loop: Loop,
        http: Http,
        find: Find,
        board: memoryview,
        record: Record | None,
        with_error_page: WithErrorPage = lambda _: _,
        lame_duck: float = LAME_DUCK,
    ) -> None:
        self.lame_duck = lame_duck
        self.loop = loop
        self.http = http
        self.find = find
        self.board = board
        self.record = record
        self.with_error_page = with_error_page
        self.limit_of_route: Limit = lambda _: None
        self._usual_limit = BodyLimit(http.max_body, "http.max_body")
        self.forwarding = Forwarding(http.trusted_proxies, http.trusted_fields)
        self.connections: set[ServedConnection] = set()
        self.limit = MOST_CONNECTIONS
        self.vital: Container[Handler] = ()
        self.repeatable: Container[Handler] = ()
        self._per_client: Counter[str] = Counter()
        self._activity = Activity(board)
        self.draining = False
        self._fewer = Condition(loop)  # notified when a connection ends, or is idle
        self.waiting = self._fewer.waiting
        self.notify = self._fewer.notify_all

    def add(self, connection: ServedConnection) -> bool:
        """Count a connection in. False where its client's address has `connections_per_client` others already.

        A trusted proxy may have any number of connections, and so may the clients of a unix socket.
        """
        address, limit = connection.client.address, self.http.connections_per_client
        self.connections.add(connection)
        self._per_client[address] += 1
        self.board[ACCEPTED] += 1
        self.board[CONNECTIONS] += 1
        self.note_busy(connection)
        if not limit or not address or self._per_client[address] <= limit:
            return True
        return self.forwarding.trusts(address)

    def note_busy(self, connection: ServedConnection) -> None:
        """Count a connection as busy, where it begins a request and the loop's time has come to its `busy_until`."""
        self._activity.note(connection, self.loop.now, self.loop.lasted)

    def body_limit(self, request: Request) -> BodyLimit:
        """The limit on the body of `request`: its route's, else `http.max_body`."""
        return self.limit_of_route(request) or self._usual_limit

    def remove(self, connection: ServedConnection) -> None:
        """Count a connection out. A second call does nothing."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        address = connection.client.address
        self._per_client[address] -= 1
        if not self._per_client[address]:
            del self._per_client[address]
        self.board[CONNECTIONS] -= 1
        self._activity.leave(connection)
        self.notify()

    def exchanges(self) -> list[Exchange]:
        """Those under way on all connections. To be called from any thread."""
        return [exchange for connection in tuple(self.connections) for exchange in connection.exchanges]

    def exchange_of(self, task: Task) -> Exchange | None:
        """The exchange whose handler `task` runs."""
        return next((exchange for exchange in self.exchanges() if exchange.task is task), None)

    async def fewer(self, count: int) -> None:
        """Wait until fewer than `count` connections are open."""
        await self._fewer.wait_for(lambda: len(self.connections) < count)

    def has_room(self) -> bool:
        """Whether there is room for another connection, or an idle one that could give way to it."""
        return len(self.connections) < self.limit or any(one.idle for one in self.connections)

    @property
    def is_taken(self) -> bool:
        """Whether every place has been taken for LASTING seconds by a connection that may not end by itself: by a
        WebSocket, or by one that is sending a response.
        """
        before = monotonic() - LASTING
        lasting = (Phase.SENDING, Phase.UPGRADED)
        return sum(one.since < before and one.phase in lasting for one in self.exchanges()) >= self.limit

    async def room(self, wanted: bool) -> None:
        """Wait until there is room for another connection, or an idle one that could give way to it.

        With `wanted`, the connections that have been idle the longest are ended, and there is room.
        """
        if not wanted:
            await self._fewer.wait_for(self.has_room)
        elif len(self.connections) >= self.limit:
            await PAUSE  # after that, a connection whose client has sent something is not idle any more
            await self._fewer.wait_for(lambda: len(self.connections) < self.limit or self._evict())

    @property
    def is_over(self) -> bool:
        """Whether there are more connections than `limit`. Those beyond it are a reserve for the vital handlers."""
        return len(self.connections) > self.limit and not self.draining

    def find_vital(self, request: Request) -> Handler:
        """As `find`, for a connection in the reserve. Raises TooManyConnections where the handler is not vital."""
        handler = self.find(request)
        if handler not in self.vital:
            raise TooManyConnections(f"all {self.limit} connections are taken")
        return handler

    def _evict(self) -> bool:
        """End those that have been idle the longest, unless their clients have sent something. False: none was ended.

        An eighth of the idle ones is ended at once, so that not every new client costs a search of all connections.
        """
        idle = sorted((one for one in self.connections if one.idle), key=lambda connection: connection.since)
        silent = (connection for connection in idle if not connection.has_asked)
        evicted = list(islice(silent, max(1, len(idle) // 8)))
        for connection in evicted:
            connection.end_idle()
        return bool(evicted)

    async def relieve(self) -> bool:
        """End idle connections, as there is no descriptor left for a new one. False where none could be ended."""
        await PAUSE  # as in `room`
        return self._evict()

    def close(self) -> None:
        """Close every connection, whatever it is doing.

        One whose task another thread has, or has not begun, stays open.
        """
        for connection in tuple(self.connections):
            connection.abort()

    def cut(self) -> None:
        """Cut every response that is being sent, as the loop has stopped and will not send the rest."""
        for connection in self.connections:
            connection.cut()

    def close_in_child(self) -> None:
        """In a process that an application has forked: close the copies of the sockets; count and record nothing."""
        self.board = memoryview(bytearray(self.board.tobytes())).cast("Q")
        self._activity = Activity(self.board)
        self.record = None
        for connection in self.connections:
            connection.close_in_child()

    def resume(self) -> None:
        """Go on as if there had been no drain. Connections that it has ended do not come back."""
        self.draining = False

    def drain(self, spread: float = 0.0) -> None:
        """Answer the requests under way with `Connection: close`, and end idle connections after `lame_duck`.

        Upgraded connections are ended one after another over `spread` seconds, or all their clients would come back at
        the same moment.
        """
        self.draining = True
        upgrades = [exchange.upgrade for exchange in self.exchanges() if exchange.upgrade is not None]
        for number, upgrade in enumerate(upgrades):
            upgrade.drain(spread * number / len(upgrades))
        for connection in self.connections:
            if connection.idle:
                connection.end_idle(at=monotonic() + self.lame_duck)
