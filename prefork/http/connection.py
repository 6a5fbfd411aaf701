"""One client connection, start to end, as one coroutine: read a request, hand it over, write the response, again.

Owns the conversation's order: requests are answered one by one as they came, each body is read to its end or the
connection closes, and a client that is refused gets to read why.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable
from math import inf
from time import monotonic

from prefork.errors import Disconnected, ProtocolError, RequestTimeout, TimedOut, TooManyConnections
from prefork.http.body import Incoming, Nothing
from prefork.http.counts import ACCEPTED, CONNECTIONS, REQUESTS, SENT, STATUS_CLASS
from prefork.http.forwarded import Forwarding
from prefork.http.head import HEAD_END, Heads
from prefork.http.message import (
    Chunks,
    Client,
    FileSegment,
    Handler,
    Request,
    RequestLine,
    Response,
    Upgrade,
    plain,
)
from prefork.http.render import Head, Renderer
from prefork.http.send import release, send_chunks, send_file, send_upgrade
from prefork.kernel.loop import PARKED, PAUSE, Loop, Task
from prefork.net.stream import Stream
from prefork.settings.schema import Http

HEAD_READ = 16384  # bytes asked for between two requests: making room for 64 KiB costs 0.3 us more
CLIENT_LEFT = 499  # what nginx too writes into its log where the client did not wait for the answer
LAME_DUCK = 1.0  # seconds that an idle connection lives on in a drain: its client may be sending at this very moment
UNKNOWN = RequestLine("GET", "-", "-", "", "", 1)  # what an unreadable request is answered as

Find = Callable[[Request], Handler]
Dress = Callable[[Response], Response]
Record = Callable[[Client, Request | None, int, int, float], None]

log = logging.getLogger("prefork")


class Server:
    """What the connections of one worker share. `find` routes; `record` writes the access log (None: it is off);
    `board` is the worker's scoreboard slot (see counts.py); `dress` is given what the server says by itself.
    """

    def __init__(
        self, loop: Loop, http: Http, find: Find, board: memoryview, record: Record | None, dress: Dress = lambda _: _
    ) -> None:
        self.loop = loop
        self.http = http
        self.find = find
        self.board = board
        self.record = record
        self.dress = dress
        self.heads = Heads(http.max_head, http.max_fields)
        self.whole, self.parse = self.heads.whole, self.heads.parse  # bound once: 64 bytes less a connection, each
        self.render = Renderer("prefork" if http.server_header else "").head
        self.forwarding = Forwarding(http.trusted_proxies) if http.trusted_proxies else None
        self.connections: set[Connection] = set()
        self._per_client: Counter[str] = Counter()
        self.draining = False
        self.waiting: list[Task] = []  # for fewer connections

    def enter(self, connection: Connection) -> bool:
        """Count a connection in; False where its client's address has `connections_per_client` already.

        The proxies that speak for others may have any number, as may who comes through a unix socket.
        """
        address, limit = connection.client.address, self.http.connections_per_client
        self.connections.add(connection)
        self._per_client[address] += 1
        self.board[ACCEPTED] += 1
        self.board[CONNECTIONS] += 1
        if not limit or not address or self._per_client[address] <= limit:
            return True
        return self.forwarding is not None and self.forwarding.trusts(address)

    def leave(self, connection: Connection) -> None:
        """Count a connection out, once."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        address = connection.client.address
        self._per_client[address] -= 1
        if not self._per_client[address]:
            del self._per_client[address]
        self.board[CONNECTIONS] -= 1
        self.notify()

    def notify(self) -> None:
        """Have those who wait for fewer connections look again."""
        for task in self.waiting:
            task.wake()

    async def fewer(self, count: int) -> None:
        """Wait until fewer than `count` connections are open."""
        await self._until(lambda: len(self.connections) < count)

    async def room(self, limit: int, wanted: bool) -> None:
        """Wait until there is room for one more of `limit` connections, or an idle one that can give way.

        With `wanted`, those that have been idle the longest do give way.
        """
        if not wanted:
            await self._until(lambda: len(self.connections) < limit or any(each.idle for each in self.connections))
        elif len(self.connections) >= limit:
            await PAUSE  # after that, whoever has sent something is not idle any more
            await self._until(lambda: len(self.connections) < limit or self._evict())

    async def _until(self, condition: Callable[[], bool]) -> None:
        task = self.loop.current
        self.waiting.append(task)
        try:
            while not condition():
                await PARKED
        finally:
            self.waiting.remove(task)

    def _evict(self) -> bool:
        """End an eighth of the idle connections, so that not every new client costs a look at all; False: none is."""
        idle = [connection for connection in self.connections if connection.idle]
        for connection in heapq.nsmallest(max(1, len(idle) // 8), idle, key=lambda connection: connection.since):
            assert connection.task is not None
            connection.task.cancel()
        return bool(idle)

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


class Connection:
    """One client's connection, which counts as one from its making on. `request` is what is being answered now, if
    anything, and `status` its answer's, once a part of that is out; `since` is when the last one was answered;
    `task` is None until `serve` begins; one that is not `welcome` is refused then; `upgrade` is what it has become.
    """

    __slots__ = ("client", "request", "server", "since", "status", "stream", "task", "upgrade", "welcome")

    def __init__(self, server: Server, stream: Stream, client: Client) -> None:
        self.server = server
        self.stream = stream
        self.client = client
        self.request: Request | None = None
        self.status = 0
        self.since = monotonic()
        self.task: Task | None = None
        self.upgrade: Upgrade | None = None
        self.welcome = server.enter(self)

    @property
    def idle(self) -> bool:
        """True between two requests: nothing under way, not even the beginning of a head."""
        return self.request is None and not self.stream.unread and self.task is not None

    async def serve(self) -> None:
        """Converse until either side has enough, then close."""
        server = self.server
        self.task = server.loop.current
        server.notify()  # it is idle
        try:
            if not self.welcome:
                raise TooManyConnections(f"more than {server.http.connections_per_client} connections of one client")
            await self._converse()
        except ProtocolError as error:
            log.debug("%s refused: %d, %s", self.client.address or "a client", error.status, error)
            await self._refuse(error.status, self.request)
        except (Disconnected, TimedOut):
            if self.request is not None:  # else it left, or had nothing more to ask
                self._account(self.status or CLIENT_LEFT, 0, self.request)
        finally:
            if self.task is not None:  # else it is given up, and another's
                self.stream.close()
                server.leave(self)

    async def _converse(self) -> None:
        """Answer requests until one is the last. The hot path: what happens with every request stands in here, and
        what rarely happens does not. Raises ProtocolError, Disconnected, TimedOut (idle for too long).
        """
        server, stream, client = self.server, self.stream, self.client
        loop, http, board, record = server.loop, server.http, server.board, server.record
        forwarding = server.forwarding
        whole, parse, find, render = server.whole, server.parse, server.find, server.render
        readable, recv, send, waiting = stream.readable, stream.recv, stream.send, server.waiting
        task = loop.current
        task.deadline = monotonic() + (LAME_DUCK if server.draining else http.header_timeout)
        nothing = Nothing(stream)
        data = b""
        while True:
            if not data:
                # no recv before the wait: on an idle connection its EAGAIN costs more than the wait
                await readable
                try:
                    data = recv(HEAD_READ)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                if not data:
                    return
            head = whole(data)
            if head is not None:
                line, headers = head
                data = b""
            else:
                end = data.find(HEAD_END)
                if end < 0:
                    data, end = await self._rest_of_head(data)
                line, headers = parse(data, end)
                data = data[end + 4 :]
            if forwarding is not None:
                client, headers = forwarding.judge(self.client, headers)
            self.request = request = Request(line, headers, nothing, client)
            if headers.has_body:
                stream.unread = data
                request.body = Incoming(stream, request, http)
            persistent = line.minor == 1 if headers.keep_alive is None else headers.keep_alive
            started = loop.now
            task.deadline = inf
            try:
                response = await find(request)(request)
                try:
                    keep_alive = persistent and not server.draining and request.body.reusable
                    outgoing = render(response, line, keep_alive, started)
                except BaseException:
                    await release(response.body)
                    raise
            except (ProtocolError, Disconnected, GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # SystemExit, asyncio.CancelledError: the request ends, not the worker
                response = server.dress(failed(request, error))
                keep_alive = persistent and not server.draining and request.body.reusable
                outgoing = render(response, line, keep_alive, started)
            body = response.body
            if isinstance(body, bytes):
                wire = outgoing.wire if outgoing.silent else outgoing.wire + body
                total = len(wire)
                try:
                    sent = send(wire)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    raise Disconnected(str(error)) from None
                if sent != total:
                    self.status = response.status
                    await stream.write(memoryview(wire)[sent:], http.send_timeout)
                del wire
            else:
                self.status = response.status
                request.body.answered()
                if isinstance(body, Upgrade):
                    stream.unread, data = data + stream.unread, b""
                total = await self._send(outgoing, body)
            board[REQUESTS] += 1
            board[STATUS_CLASS + response.status // 100] += 1
            board[SENT] += total
            now = monotonic()  # the application may have taken its time
            if record is not None:
                record(client, request, response.status, total, now - started)
            self.request = None
            self.status = 0
            if headers.has_body:
                data = await self._after_body(request)
            elif stream.unread:  # came while a handler was watching for the client's end
                data, stream.unread = data + stream.unread, b""
            if not outgoing.keep_alive:
                if data or headers.has_body or persistent:  # the client may be sending more
                    await stream.linger()
                return
            self.since = now
            task.deadline = now + (LAME_DUCK if server.draining else http.keepalive_timeout)
            # or an idle connection would keep them: 0.5 KiB, and several where its header block is like no other's
            del head, line, headers, request, response, outgoing, body
            if data:
                stream.unread = data  # not idle
                await PAUSE  # a pipeline is served in turn with everybody else
                stream.unread = b""
            elif waiting:
                server.notify()

    def _account(self, status: int, sent: int, request: Request | None, duration: float = 0.0) -> None:
        """Count and record what is not an ordinary answer: a refusal, or one that did not get through."""
        server, board = self.server, self.server.board
        board[REQUESTS] += 1
        board[STATUS_CLASS + status // 100] += 1
        board[SENT] += sent
        if server.record is not None:
            server.record(request.client if request else self.client, request, status, sent, duration)

    async def _rest_of_head(self, data: bytes) -> tuple[bytes, int]:
        """Read on until the head that `data` begins is whole; where it ends. Raises RequestTimeout, BadRequest, ..."""
        server, stream = self.server, self.stream
        until = monotonic() + server.http.header_timeout  # for the whole head: a drip does not prolong it
        known = 0
        while True:
            server.heads.check_partial(data, known)
            known = len(data)
            stream.unread = data  # not idle
            try:
                piece = await stream.read(until - monotonic())
            except TimedOut:
                raise RequestTimeout(f"no whole head within {server.http.header_timeout:g} s") from None
            if not piece:
                raise Disconnected("the client left in mid-head")
            data += piece
            end = data.find(HEAD_END, max(0, known - 3))
            if end >= 0:
                stream.unread = b""
                return data, end

    async def _after_body(self, request: Request) -> bytes:
        """Get past a request body that may not have been read; what follows it. Raises Disconnected where it cannot."""
        try:
            reusable = await request.body.discard()
        except ProtocolError:
            reusable = False  # it has had its answer
        if not reusable:
            await self.stream.linger()
            raise Disconnected("the request body was not read to its end")
        data, self.stream.unread = self.stream.unread, b""
        return data

    async def _send(self, head: Head, body: Chunks | FileSegment | Upgrade) -> int:
        """Send a response that is not plain bytes; how many bytes that was. Raises Disconnected."""
        stream, timeout = self.stream, self.server.http.send_timeout
        try:
            if isinstance(body, FileSegment):
                return await send_file(stream, head, body, timeout)
            if isinstance(body, Upgrade):
                self.upgrade = body
                if self.server.draining:
                    body.drain(0.0)
                return await send_upgrade(stream, head, body, timeout)
            return await send_chunks(stream, head, body, timeout)
        except (Disconnected, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # the head is out: all that is left is to make sure that the client does not take this for the whole
            assert self.request is not None
            if isinstance(body, FileSegment) and isinstance(error, EOFError):
                log.warning("%s: %s", self.request.target, error)
            else:
                failed(self.request, error)
            if not head.chunked and head.length is None:
                stream.spoil()
            raise Disconnected("the response was cut short") from None
        finally:
            self.upgrade = None
            await release(body)

    def give_up(self, after: float) -> None:
        """Answer 504 in the place of the task whose application has not returned `after` so many seconds, and close.

        From now on that task has no part in this connection, whenever it comes back.
        """
        request, self.request, self.task = self.request, None, None
        self.server.loop.spawn(self._answer_late(request, after), "answering 504")

    async def _answer_late(self, request: Request | None, after: float) -> None:
        try:
            await self._refuse(504, request, after)
        finally:
            self.stream.close()
            self.server.leave(self)

    async def _refuse(self, status: int, request: Request | None, duration: float = 0.0) -> None:
        """Say what is wrong with the request, and let the client read that before the connection closes."""
        server = self.server
        response = server.dress(plain(status))
        head = server.render(response, request.line if request else UNKNOWN, False, server.loop.now)
        assert isinstance(response.body, bytes)
        wire = head.wire if head.silent else head.wire + response.body
        try:
            await self.stream.write(wire, server.http.send_timeout)
        except Disconnected:
            return
        self._account(status, len(wire), request, duration)
        await self.stream.linger()


def failed(request: Request, error: BaseException) -> Response:
    """Log what an application or a handler raised, with its stack; the client's 500."""
    log.error("%s %s failed: %r", request.method, request.target, error, exc_info=error)
    return plain(500)
