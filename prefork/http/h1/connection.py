"""One client connection, from start to end, as one coroutine: read a request, hand it over, write the response, repeat.

Owns the order of the conversation. Requests are answered one by one, as they came. Each body is read to its end, or the
connection closes. A client whose request is refused can read the answer before the connection closes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from time import monotonic

from prefork.errors import CutShort, Disconnected, ProtocolError, TimedOut, TooManyConnections
from prefork.http.exchange import failed, release
from prefork.http.h1.body import Incoming, Nothing
from prefork.http.h1.fields import persistence
from prefork.http.h1.parse import Head as RequestHead
from prefork.http.h1.receive import receive_head
from prefork.http.h1.render import Head
from prefork.http.h1.request_line import guess_line
from prefork.http.h1.send import send_at_once, send_chunks, send_file, send_upgrade
from prefork.http.h1.state import ConnectionState
from prefork.http.message import (
    Chunks,
    FileSegment,
    Headers,
    Repeatable,
    Request,
    Response,
    Upgrade,
)
from prefork.logger import log
from prefork.runtime.owner import Superseded
from prefork.runtime.task import PAUSE, Wait
from prefork.shared.counters import REPEATS, REQUESTS, SENT

HEAD_READ = 16384  # bytes asked for between two requests: making room for 64 KiB costs 0.3 us more
CLIENT_LEFT = 499  # as in nginx's log: the client did not wait for the answer
NO_HEADERS = Headers({})


class Connection(ConnectionState):
    """One client's connection. The server counts it from the moment it is made. `task` is None until `serve` begins."""

    __slots__ = ()

    async def serve(self, answered: Callable[[], None] | None = None) -> None:
        """Converse until either side ends it, then close. With `answered`, begin in mid-request: see `go_on`."""
        server = self.server
        is_ours = True
        try:
            if answered is not None:
                if not await self._answer_again(answered):
                    return
                timeout = server.http.keepalive_timeout
            else:
                self.task = server.loop.current
                self.task.owner = self
                self.idle = True
                server.notify()
                timeout = server.http.header_timeout
            if not self.welcome:
                raise TooManyConnections(f"more than {server.http.connections_per_client} connections of one client")
            await self._converse(timeout)
        except Superseded:
            is_ours = False
        except ProtocolError as error:
            log.debug("%s refused: %d, %s", self.client.address or "a client", error.status, error)
            await self.refuse(error.status, self.request or self._unreadable())
        except (Disconnected, TimedOut):
            if self.request is not None:  # else the client left, or was idle for too long
                self.account(self.answer.status if self.answer else CLIENT_LEFT, self.request)
        finally:
            if is_ours and self.task is not None:  # else another coroutine or task has it
                self.task.owner = None
                self.stream.close()
                server.remove(self)

    def go_on(self, answered: Callable[[], None]) -> Coroutine[Wait, None, None]:
        """A coroutine that replaces the task's, and goes on by calling the handler of `request` again (see Owner)."""
        return self.serve(answered)

    async def _answer_again(self, answered: Callable[[], None]) -> bool:
        """Answer `request`, whose handler is called once more. False where it was the connection's last request.

        Calls `answered` once the handler has returned or raised. Raises ProtocolError, Disconnected.
        """
        server, stream, request = self.server, self.stream, self.request
        assert request is not None
        has_body, keep_alive = request.body.size != 0, persistence(request.headers.get("connection"))
        persistent = request.line.minor == 1 if keep_alive is None else keep_alive
        try:
            response, head = await self._ask(request, persistent)
        finally:
            answered()
        self.answer, body = head, response.body
        request.body.answered()
        if isinstance(body, bytes):
            await stream.write(head.wire if head.silent else head.wire + body, server.http.send_timeout)
        else:
            await self._send(head, body)
        self.account(response.status, request)
        self.answer, stream.sent = None, 0
        if has_body:
            stream.unread = await self._after_body(request)
        if not head.keep_alive and (stream.unread or has_body or persistent):
            await stream.linger()
        self.since = monotonic()
        return head.keep_alive

    async def _ask(self, request: Request, persistent: bool) -> tuple[Response, Head]:
        """The handler's response and its head, as in `_converse`."""
        server, line = self.server, request.line
        render = self.protocol.renderer(self.client)
        try:
            response = await server.find(request)(request)
            try:
                keep_alive = persistent and not server.draining and request.body.reusable
                return response, render(response, line, keep_alive, server.loop.now)
            except BaseException:
                await release(response.body)
                raise
        except (ProtocolError, Disconnected, GeneratorExit, Superseded):
            raise
        except BaseException as error:
            response = server.with_error_page(failed(request, error))
            keep_alive = persistent and not server.draining and request.body.reusable
            return response, render(response, line, keep_alive, server.loop.now)

    async def _converse(self, timeout: float) -> None:
        """Answer requests until one is the last. The first must come within `timeout` seconds (`lame_duck` in a drain).

        This is the hot path: steps of every request stand in here, and rare ones have methods of their own. Raises
        ProtocolError, Disconnected, TimedOut (idle for too long).
        """
        server, stream, peer = self.server, self.stream, self.client
        loop, http, board, record = server.loop, server.http, server.board, server.record
        judge = server.forwarding.judge
        over_limit = self.over_limit
        find = server.find_vital if over_limit else server.find
        protocol = self.protocol
        whole, render = protocol.whole, protocol.renderer(peer)
        readable, waiting = stream.readable, server.waiting
        recv, send = stream.recv, stream.send  # 0.4 us less a request than by try_read and try_write
        task = loop.current
        task.deadline = monotonic() + (server.lame_duck if server.draining else timeout)
        nothing = Nothing(stream)
        data, stream.unread = stream.unread, b""
        begins = True
        while True:
            head = None
            if not data:
                if begins:
                    # a client that has waited in the accept queue has sent its request. It is answered before the next
                    # client is accepted, so that a request which kills the worker costs no other client its connection
                    begins = False
                else:
                    # no recv before the wait: on an idle connection its EAGAIN costs more than the wait
                    self.idle = True
                    await readable
                self.idle = False
                try:
                    data = recv(HEAD_READ)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                try:
                    head = whole(data)
                except ProtocolError:
                    stream.unread = data
                    raise
            if head is not None:
                line, headers, framing, repeat = head
                data = b""
            else:
                (line, headers, framing), data = await self._head(data)
                repeat = None
            client = peer
            if headers.proxy_fields:
                client, headers = judge(peer, headers)
            self.request = request = Request(line, headers, nothing, client)
            if data:  # bytes behind the head: `unread` is their only place, as `hangup` adds to it meanwhile
                stream.unread, data = data, b""
            if framing.has_body:
                request.body = Incoming(stream, request, framing, http, server.body_limit(request))
            persistent = not over_limit and (line.minor == 1 if framing.keep_alive is None else framing.keep_alive)
            self.since = started = loop.now
            if started >= self.busy_until:
                server.note_busy(self)
            task.deadline = inf
            memo = repeat.memo if repeat is not None and repeat.protocol is protocol else None
            if memo is not None and memo.until > started and not server.draining:
                response, outgoing = memo.response, memo.head
                if memo.hold is not None:
                    memo.hold()
                board[REPEATS] += 1
            else:
                try:
                    handler = find(request)
                    response = await handler(request)
                    try:
                        keep_alive = persistent and not server.draining and request.body.reusable
                        outgoing = render(response, line, keep_alive, loop.now)
                        if (
                            repeat is not None
                            and type(response) is Repeatable
                            and outgoing is response.memo.head
                            and handler in server.repeatable
                        ):
                            repeat.memo, repeat.protocol = response.memo, protocol
                    except BaseException:
                        await release(response.body)
                        raise
                except (ProtocolError, Disconnected, GeneratorExit, Superseded):
                    raise
                except BaseException as error:  # SystemExit, asyncio.CancelledError: the request ends, not the worker
                    response = server.with_error_page(failed(request, error))
                    keep_alive = persistent and not server.draining and request.body.reusable
                    outgoing = render(response, line, keep_alive, loop.now)
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
                    self.answer, stream.sent = outgoing, sent
                    await stream.write(memoryview(wire)[sent:], http.send_timeout)
                    self.answer, stream.sent = None, 0
                del wire
            else:
                self.answer = outgoing
                request.body.answered()
                if type(body) is FileSegment and send_at_once(stream, outgoing, body):
                    body.close()
                else:
                    await self._send(outgoing, body)
                total, stream.sent = stream.sent, 0
                self.answer = None
            board[REQUESTS] += 1
            board[outgoing.counter] += 1
            board[SENT] += total
            now = monotonic()  # the application may have taken its time
            if record is not None:
                record(client, request, response.status, len(outgoing.wire), total, now - started)
            self.request = None
            if framing.has_body:
                data = await self._after_body(request)
            elif stream.unread:
                data, stream.unread = stream.unread, b""
            if not outgoing.keep_alive:
                if data or framing.has_body or persistent:  # the client may be sending more
                    await stream.linger()
                return
            self.since = now
            task.deadline = now + (server.lame_duck if server.draining else http.keepalive_timeout)
            # an idle connection must not keep these: 0.5 KiB, and several KiB where its header block is unique
            del head, line, headers, framing, request, response, outgoing, body
            if data:
                await PAUSE  # a pipeline takes turns with the other connections
            elif waiting:
                server.notify()

    async def _head(self, data: bytes) -> tuple[RequestHead, bytes]:
        """The head that `data` begins with, and the bytes behind it. Reads on until the head is whole.

        Raises ProtocolError and Disconnected, and then the part that has come is in the stream's `unread`. Raises
        TimedOut where only an empty line has come.
        """
        heads, stream, timeout = self.protocol.heads, self.stream, self.server.http.header_timeout
        if data == b"\r\n":  # no head yet: old clients send an empty line behind a body (RFC 9112 §2.2)
            assert self.task is not None
            self.idle = True
            data += await stream.read(self.task.deadline - monotonic())
            self.idle = False
        return await receive_head(stream, heads, data, timeout)

    def _unreadable(self) -> Request | None:
        """A request made of a head that is refused, for the answer and the access log; None where no byte has come."""
        data = self.stream.unread
        self.since = monotonic()
        return Request(guess_line(data), NO_HEADERS, Nothing(self.stream), self.client) if data else None

    async def _after_body(self, request: Request) -> bytes:
        """Drop the rest of a request body. Returns the bytes behind it. Raises Disconnected where it cannot."""
        try:
            reusable = await request.body.discard()
        except ProtocolError:
            reusable = False  # the request has had its answer already
        if not reusable:
            await self.stream.linger()
            raise Disconnected("the request body was not read to its end")
        data, self.stream.unread = self.stream.unread, b""
        return data

    async def _send(self, head: Head, body: Chunks | FileSegment | Upgrade) -> None:
        """Send a response whose body is not bytes. Raises Disconnected, also where the response was cut short."""
        stream, timeout = self.stream, self.server.http.send_timeout
        try:
            if isinstance(body, FileSegment):
                await send_file(stream, head, body, timeout)
            elif isinstance(body, Upgrade):
                self.upgrade = body
                if self.server.draining:
                    body.drain(0.0)
                await send_upgrade(stream, head, body, timeout)
            else:
                await send_chunks(stream, head, body, timeout)
        except (Disconnected, GeneratorExit):
            self.cut()
            raise
        except BaseException as error:
            assert self.request is not None
            if isinstance(error, CutShort):
                log.warning("%s: %s", self.request.target, error)
            else:
                failed(self.request, error)
        else:
            return
        finally:
            self.upgrade = None
            await release(body)
        if not stream.sent:
            await self.refuse(500, self.request)
        else:
            self.cut()
        raise Disconnected("the response was cut short")
