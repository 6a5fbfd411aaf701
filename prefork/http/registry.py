"""What the connections of one worker share, and who they are: counts them in and out, makes room, ends them in a drain.

Owns the set of the open connections; never reads or writes one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from itertools import islice
from time import monotonic
from typing import Protocol

from prefork.errors import TooManyConnections
from prefork.http.body_limit import BodyLimit
from prefork.http.forwarded import Forwarding
from prefork.http.message import Client, Handler, Request, Response, Upgrade
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition
from prefork.runtime.task import PAUSE, Task
from prefork.settings.schema import MOST_CONNECTIONS, Http
from prefork.shared.activity import Activity
from prefork.shared.counters import ACCEPTED, CONNECTIONS

LASTING = 1.0  # seconds after which a response that is being sent, or a WebSocket, may be there to stay
LAME_DUCK = 1.0  # seconds that an idle connection lives on in a drain: its client may be sending at this very moment

Limit = Callable[[Request], BodyLimit | None]
Find = Callable[[Request], Handler]
WithErrorPage = Callable[[Response], Response]
Record = Callable[[Client, Request | None, int, int, int, float], None]


class Served(Protocol):
    """A connection, as far as the server looks at it (h1/connection.py)."""

    client: Client
    request: Request | None
    idle: bool
    since: float
    busy_until: float
    task: Task | None
    upgrade: Upgrade | None

    @property
    def answers(self) -> bool:
        """A response is being sent."""

    @property
    def has_asked(self) -> bool:
        """Something has arrived that nobody has read."""

    def cut(self) -> None: ...

    def close_in_child(self) -> None: ...

    def give_up(self) -> None: ...


class Server:
    """What the connections of one worker share. `find` routes; `record` writes the access log (None: it is off);
    `board` is the worker's page of the scoreboard (see shared/counters.py); `with_error_page` is given the server's own
    answers. `limit` is how many connections there should be, `vital` the handlers that answer beyond that, too;
    `repeatable` are the handlers whose Repeatable responses may be sent again without the handler being asked;
    `limit_of_route` tells how large the body of a request may be where its route has a say in that.
    """

    def __init__(
        self,
        loop: Loop,
        http: Http,
        find: Find,
        board: memoryview,
        record: Record | None,
        with_error_page: WithErrorPage = lambda _: _,
    ) -> None:
        self.loop = loop
        self.http = http
        self.find = find
        self.board = board
        self.record = record
        self.with_error_page = with_error_page
        self.limit_of_route: Limit = lambda _: None
        self._usual_limit = BodyLimit(http.max_body, "http.max_body")
        self.forwarding = Forwarding(http.trusted_proxies, http.trusted_fields)
        self.connections: set[Served] = set()
        self.limit = MOST_CONNECTIONS
        self.vital: Container[Handler] = ()
        self.repeatable: Container[Handler] = ()
        self._per_client: Counter[str] = Counter()
        self._activity = Activity(board)
        self.draining = False
        self._fewer = Condition(loop)  # rung when a connection ends, or is idle
        self.waiting = self._fewer.waiting
        self.notify = self._fewer.notify_all

    def enter(self, connection: Served) -> bool:
        """Count a connection in; False where its client's address has `connections_per_client` already.

        The proxies that speak for others may have any number, as may who comes through a unix socket.
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

    def note_busy(self, connection: Served) -> None:
        """To be called where a connection begins a request, once the loop's time has come to its `busy_until`."""
        self._activity.note(connection, self.loop.now, self.loop.lasted)

    def body_limit(self, request: Request) -> BodyLimit:
        """How large the body of `request` may be."""
        return self.limit_of_route(request) or self._usual_limit

    def leave(self, connection: Served) -> None:
        """Count a connection out, once."""
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

    async def fewer(self, count: int) -> None:
        """Wait until fewer than `count` connections are open."""
        await self._fewer.wait_for(lambda: len(self.connections) < count)

    def has_room(self) -> bool:
        """Whether there is room for one more, or an idle connection that can give way."""
        return len(self.connections) < self.limit or any(one.idle for one in self.connections)

    @property
    def is_taken(self) -> bool:
        """Whether every place has been taken for LASTING seconds by what need not end by itself: a WebSocket, or the
        sending of a response.
        """
        before = monotonic() - LASTING
        lasting = [one for one in self.connections if one.upgrade is not None or one.answers]
        return sum(one.since < before for one in lasting) >= self.limit

    async def room(self, wanted: bool) -> None:
        """Wait until there is room for one more, or an idle connection that can give way.

        With `wanted`, those that have been idle the longest do give way.
        """
        if not wanted:
            await self._fewer.wait_for(self.has_room)
        elif len(self.connections) >= self.limit:
            await PAUSE  # after that, whoever has sent something is not idle any more
            await self._fewer.wait_for(lambda: len(self.connections) < self.limit or self._evict())

    @property
    def is_over(self) -> bool:
        """Whether there are more connections than there should be, in a reserve for what is vital."""
        return len(self.connections) > self.limit and not self.draining

    def find_vital(self, request: Request) -> Handler:
        """As `find`, in that reserve. Raises TooManyConnections for what is not vital."""
        handler = self.find(request)
        if handler not in self.vital:
            raise TooManyConnections(f"all {self.limit} connections are taken")
        return handler

    def _evict(self) -> bool:
        """End an eighth of the idle connections, so that not every new client costs a look at all; False: none is."""
        idle = sorted((one for one in self.connections if one.idle), key=lambda connection: connection.since)
        silent = (connection for connection in idle if not connection.has_asked)
        evicted = list(islice(silent, max(1, len(idle) // 8)))
        for connection in evicted:
            assert connection.task is not None
            connection.task.cancel()
        return bool(evicted)

    async def relieve(self) -> bool:
        """Have idle connections give way to one that there is no descriptor for; False: none is."""
        await PAUSE  # as in `room`
        return self._evict()

    def close(self) -> None:
        """Close every connection, whatever it is at; save those whose task another thread has, or has not begun."""
        for connection in tuple(self.connections):
            connection.cut()
            if connection.task is not None:
                connection.task.cancel_unless_away()

    def cut(self) -> None:
        """The loop has stopped: what is under way does not come to its end."""
        for connection in self.connections:
            connection.cut()

    def close_in_child(self) -> None:
        """In a process that an application has forked: hold no client, and count and record nothing."""
        self.board = memoryview(bytearray(self.board.tobytes())).cast("Q")
        self._activity = Activity(self.board)
        self.record = None
        for connection in self.connections:
            connection.close_in_child()

    def resume(self) -> None:
        """Go on as if there had been no drain; what it has ended is ended."""
        self.draining = False

    def drain(self, spread: float = 0.0) -> None:
        """Answer what is under way with `Connection: close`, and let idle connections go after LAME_DUCK seconds.

        Upgraded ones are ended one after another over `spread` seconds, as their clients will come back at once.
        """
        self.draining = True
        upgrades = [connection.upgrade for connection in self.connections if connection.upgrade is not None]
        for number, upgrade in enumerate(upgrades):
            upgrade.drain(spread * number / len(upgrades))
        for connection in self.connections:
            if connection.idle:
                assert connection.task is not None
                connection.task.deadline = min(connection.task.deadline, monotonic() + LAME_DUCK)
