"""A connection as others see it: its state, and the things that are done to it from outside of its conversation.

Owns the answers that no handler gives: a refusal, and the 504 in place of an application that has not returned.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from time import monotonic

from prefork.errors import Disconnected
from prefork.http.exchange import Exchange, Phase
from prefork.http.h1.protocol import Http1
from prefork.http.h1.render import Head
from prefork.http.message import Client, Request, RequestLine, Upgrade, plain
from prefork.net.stream import Stream
from prefork.runtime.poller import READ, is_ready
from prefork.runtime.task import Task
from prefork.shared.counters import REQUESTS, SENT, status_class

RETRY = (("Retry-After", "1"),)
UNKNOWN = RequestLine("GET", "-", "-", "", "", 1)  # the request line of an answer where no request has come


class ConnectionState:
    """The state of a connection (connection.py). The server counts it from the moment it is made.

    `request` is the one that is being answered, or None. `answer` is the head of its response while that is being sent;
    bytes that one send has taken set none. The connection is `idle` between two requests; `since` is when that or the
    request began. `task` is None until the conversation begins. A connection that is not `welcome` is refused then. One
    `over_limit` gets a single answer, and only from a vital handler. `upgrade` is the body of the 101, while that has
    the stream. For `busy_until` see shared/activity.py.

    As HTTP/1 has one exchange at a time, the connection itself is that exchange. This costs no object more.
    """

    __slots__ = (
        "answer",
        "busy_until",
        "client",
        "idle",
        "over_limit",
        "protocol",
        "request",
        "server",
        "since",
        "stream",
        "task",
        "upgrade",
        "welcome",
    )

    def __init__(self, protocol: Http1, stream: Stream, client: Client) -> None:
        self.protocol = protocol
        self.server = server = protocol.server
        self.stream = stream
        self.client = client
        self.request: Request | None = None
        self.answer: Head | None = None
        self.idle = False
        self.since = monotonic()
        self.busy_until = 0.0
        self.task: Task | None = None
        self.upgrade: Upgrade | None = None
        self.welcome = server.add(self)
        self.over_limit = server.is_over

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        return () if self.idle else (self,)

    @property
    def phase(self) -> Phase:
        if self.upgrade is not None:
            return Phase.UPGRADED
        if self.answer is not None:
            return Phase.SENDING
        return Phase.RECEIVING if self.request is None else Phase.HANDLING

    @property
    def has_asked(self) -> bool:
        return is_ready(self.stream.fd, READ)

    def cut(self) -> None:
        """Send no more of the answer: the close will be a reset, where only the connection's end would end the body.

        A client would take the part that it got for the whole otherwise. That happens in HTTP/1.0, which many proxies
        speak.
        """
        if self.answer is not None and self.answer.until_close and self.upgrade is None:
            self.stream.reset_on_close()

    def end_idle(self, at: float = -inf) -> None:
        task = self.task
        assert task is not None
        if at == -inf:
            task.cancel()
        else:
            task.deadline = min(task.deadline, at)

    def abort(self) -> None:
        self.cut()
        if self.task is not None:
            self.task.cancel_unless_away()

    def close_in_child(self) -> None:
        self.stream.close_in_child()

    def give_up(self) -> None:
        """Answer 504 in place of `task`, and close."""
        if self.task is not None:
            self.task.owner = None
        request, self.request, self.task = self.request, None, None
        self.server.loop.spawn(self._answer_late(request), "answering 504")

    async def _answer_late(self, request: Request | None) -> None:
        try:
            await self.refuse(504, request)
        finally:
            self.stream.close()
            self.server.remove(self)

    async def refuse(self, status: int, request: Request | None) -> None:
        """Answer with an error `status`, and let the client read that before the connection closes."""
        server = self.server
        response = server.with_error_page(plain(status, *RETRY) if status == 503 else plain(status))
        line = request.line if request else UNKNOWN
        self.answer = head = self.protocol.render(response, line, False, server.loop.now)
        assert isinstance(response.body, bytes)
        with suppress(Disconnected):
            await self.stream.write(head.wire if head.silent else head.wire + response.body, server.http.send_timeout)
        self.account(status, request)
        await self.stream.linger()

    def account(self, status: int, request: Request | None) -> None:
        """Count and record an answer that the hot path does not: a refusal, one not sent whole, or a second attempt."""
        server, board, sent = self.server, self.server.board, self.stream.sent
        board[REQUESTS] += 1
        board[status_class(status)] += 1
        board[SENT] += sent
        if server.record is not None:
            client, duration = (request.client, monotonic() - self.since) if request else (self.client, 0.0)
            server.record(client, request, status, len(self.answer.wire) if self.answer else 0, sent, duration)
        self.request = None
