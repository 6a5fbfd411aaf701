"""The end of a worker: in which order what is under way comes to its end, and how long each step may take.

Requests finish; what has not within its time is ended; then the applications shut down, which may close what those
requests used; then the loop stops. Owns that order, and what is said of whoever does not make it.
"""

from __future__ import annotations

from contextlib import suppress

from prefork.errors import TimedOut
from prefork.handlers.build import AsgiHost
from prefork.http.message import Request
from prefork.http.registry import Server
from prefork.logger import log
from prefork.runtime.sync import Event
from prefork.runtime.task import PAUSE
from prefork.runtime.threads import ThreadPool
from prefork.settings.schema import Workers

GRACE = 1.0  # seconds beyond its own time-outs until a worker that ought to have left by itself is killed
ENDING = 1.6  # seconds, at the most, that it takes to end what is left of ASGI requests, and of asyncio
FAREWELL = 5.0  # seconds of a drain that are kept for the closing handshakes of the last WebSockets
HANDSHAKES = 0.25  # seconds for those of the WebSockets that are ended
TOLD = 100  # requests that are named one by one


def time_for_requests(workers: Workers) -> float:
    """Seconds after the word to leave until a worker without ASGI applications is gone by itself."""
    return workers.graceful_timeout + GRACE


def time_for_shutdown(workers: Workers) -> float:
    """Seconds beyond that, or beyond the word not to wait for requests, that ASGI applications may take."""
    return ENDING + workers.shutdown_timeout


class Drain:
    """The end of one worker, which accepts no clients any more. `run` once, in a task."""

    def __init__(self, server: Server, pool: ThreadPool, asgi: AsgiHost | None, workers: Workers) -> None:
        self._loop = server.loop
        self._server = server
        self._pool = pool
        self._asgi = asgi
        self._workers = workers
        self._waited = Event(self._loop)  # long enough for requests: they are done, or are not to be waited for
        self.hurried = False  # no request is waited for
        self.cut_short = False  # some of what was under way may not be done

    def hurry(self) -> None:
        """Wait for no request, or no longer. The applications shut down all the same."""
        self.hurried = True
        self._pool.hurried = True
        self._waited.set()

    def begin(self) -> None:
        """Answer what is under way, and nothing else; WebSockets end one by one, before the time is over."""
        self._server.drain(0.0 if self.hurried else max(0.0, self._workers.graceful_timeout - FAREWELL))

    async def run(self) -> None:
        """All of it, until the loop stops."""
        finishing = self._loop.spawn(self._finish(), "finishing requests")
        with suppress(TimedOut), self._loop.within(self._workers.graceful_timeout):
            await self._waited.wait()
        finishing.cancel()
        self.cut_short = self.hurried or not self._waited.is_set()
        self._tell_of_the_rest()
        if not self.hurried:
            self._pool.turn_away()
            await PAUSE  # they are answered before us
        if self._asgi is not None:
            await self._asgi.end()
            with suppress(TimedOut), self._loop.within(HANDSHAKES):
                await self._server.fewer(1)
        self._server.close()
        if self._asgi is not None:
            self._loop.rest()  # who flushes or joins there, and holds the loop up, has the same time as who awaits
            await self._asgi.shut_down(self._workers.shutdown_timeout)
        self._loop.stop()

    async def _finish(self) -> None:
        await PAUSE  # the clients just accepted enter first
        await self._server.fewer(1)
        if self._asgi is not None:
            await self._asgi.finished()
        await self._pool.finished()  # a close() and what else goes on without a client
        self._waited.set()

    def _tell_of_the_rest(self) -> None:
        """A line for each request that is not done, whoever is still at it."""
        connections = sorted(self._server.connections, key=lambda connection: connection.since)
        requests: list[Request | None] = [one.request for one in connections]
        requests += [call.what for call in self._pool.calls.under_way.values() if not call.abandoned]
        requests += self._asgi.requests() if self._asgi is not None else []
        polite = {one.request for one in connections if self.hurried and one.upgrade is not None}  # they close by 1012
        left = [request for request in dict.fromkeys(requests) if request is not None and request not in polite]
        why = "cut off by the stop" if self.hurried else f"not done within {self._workers.graceful_timeout:g} s"
        for request in left[:TOLD]:
            log.warning("%s: %s %s", why, request.method, request.target)
        if len(left) > TOLD:
            log.warning("%s: %d more requests", why, len(left) - TOLD)
