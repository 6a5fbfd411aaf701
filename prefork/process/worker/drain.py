"""The drain: how a worker ends. Owns the order of the steps, their time limits, and the log of unfinished requests.

First, requests finish; those that take longer than the limit are ended. Then the applications shut down, and may close
what those requests used. Then the loop stops.
"""

from __future__ import annotations

from contextlib import suppress

from prefork.errors import TimedOut
from prefork.handlers.build import AsgiHost
from prefork.http.exchange import Phase
from prefork.http.message import Request
from prefork.http.registry import Server
from prefork.logger import log
from prefork.runtime.sync import Event
from prefork.runtime.task import PAUSE
from prefork.runtime.threads import ThreadPool
from prefork.settings.schema import Workers

GRACE = 1.0  # seconds beyond its own time limit until a worker that has not left by itself is killed
ENDING = 1.6  # seconds that it takes, at most, to end the remaining ASGI requests, and asyncio
FAREWELL = 5.0  # seconds at the end of a drain that are kept for the closing handshakes of the last WebSockets
HANDSHAKES = 0.25  # seconds for the closing handshakes of WebSockets that are ended
LOGGED_REQUESTS = 100  # unfinished requests that are logged one by one


def time_for_requests(workers: Workers) -> float:
    """Seconds after the order to leave within which a worker without ASGI applications must be gone."""
    return workers.graceful_timeout + GRACE


def time_for_shutdown(workers: Workers) -> float:
    """Seconds that ASGI applications may take to shut down, after `time_for_requests` or an order to hurry."""
    return ENDING + workers.shutdown_timeout


class Drain:
    """The drain of one worker, which accepts no more clients. Call `run` once, in a task."""

    def __init__(self, server: Server, pool: ThreadPool, asgi: AsgiHost | None, workers: Workers) -> None:
        self._loop = server.loop
        self._server = server
        self._pool = pool
        self._asgi = asgi
        self._workers = workers
        self._waited = Event(self._loop)  # requests are done, or must not be waited for
        self.hurried = False  # no request is waited for
        self.cut_short = False  # a request may have been ended before it was done

    def hurry(self) -> None:
        """Stop waiting for requests, now or once `run` begins. The applications shut down all the same."""
        self.hurried = True
        self._pool.hurried = True
        self._waited.set()

    def begin(self) -> None:
        """Answer the requests that are under way, and no others. The WebSockets are closed one by one within the time
        limit, less FAREWELL.
        """
        self._server.drain(0.0 if self.hurried else max(0.0, self._workers.graceful_timeout - FAREWELL))

    async def run(self) -> None:
        """Take all steps of the drain; the last one stops the loop."""
        finishing = self._loop.spawn(self._finish(), "finishing requests")
        with suppress(TimedOut), self._loop.within(self._workers.graceful_timeout):
            await self._waited.wait()
        finishing.cancel()
        self.cut_short = self.hurried or not self._waited.is_set()
        self._tell_of_the_rest()
        if not self.hurried:
            self._pool.turn_away()
            await PAUSE  # the requests that were turned away are answered first
        if self._asgi is not None:
            await self._asgi.end()
            with suppress(TimedOut), self._loop.within(HANDSHAKES):
                await self._server.fewer(1)
        self._server.close()
        if self._asgi is not None:
            self._loop.rest()  # an application that blocks the loop here has the same time as one that awaits
            await self._asgi.shut_down(self._workers.shutdown_timeout)
        self._loop.stop()

    async def _finish(self) -> None:
        await PAUSE  # clients that have just been accepted are counted first
        await self._server.fewer(1)
        if self._asgi is not None:
            await self._asgi.finished()
        await self._pool.finished()  # a close(), say, may go on without a client
        self._waited.set()

    def _tell_of_the_rest(self) -> None:
        """Log each request that is not done, in a connection, a thread or asyncio; beyond LOGGED_REQUESTS, log their
        number.
        """
        exchanges = sorted(self._server.exchanges(), key=lambda exchange: exchange.since)
        requests: list[Request | None] = [one.request for one in exchanges]
        requests += [call.what for call in self._pool.calls.under_way.values() if not call.abandoned]
        requests += self._asgi.requests() if self._asgi is not None else []
        upgraded = (one.request for one in exchanges if one.phase is Phase.UPGRADED)
        polite = set(upgraded) if self.hurried else set()  # they close by 1012
        left = [request for request in dict.fromkeys(requests) if request is not None and request not in polite]
        why = "cut off by the stop" if self.hurried else f"not done within {self._workers.graceful_timeout:g} s"
        for request in left[:LOGGED_REQUESTS]:
            log.warning("%s: %s %s", why, request.method, request.target)
        if len(left) > LOGGED_REQUESTS:
            log.warning("%s: %d more requests", why, len(left) - LOGGED_REQUESTS)
