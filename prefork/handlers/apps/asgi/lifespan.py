"""The lifespan of an ASGI application (ASGI's lifespan protocol 2.0): it starts before the worker is ready, and shuts
down when the last request is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum, auto
from typing import Any

from prefork.errors import LifespanError
from prefork.handlers.apps.asgi.messages import News
from prefork.logger import log
from prefork.runtime import forks


class _Phase(Enum):
    SCOPE = auto()  # the application has not called receive yet: it may not know of lifespans
    STARTING = auto()
    RUNNING = auto()
    LEAVING = auto()
    OVER = auto()


class Lifespan:
    """One application's lifespan. The application fills `state` as it starts; each request gets a copy of it."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self._application = application
        self.state: dict[str, Any] = {}
        self._phase = _Phase.SCOPE
        self._failure: BaseException | None = None
        self._told = False  # its failure has been logged, or it has been given up
        self._foreign = False  # it has sent a message of another protocol, so it takes the lifespan for a request
        self._task: asyncio.Task[None] | None = None
        self._changed: News

    async def start_up(self) -> None:
        """Wait until the application has started, or has shown that it knows of no lifespan.

        Raises LifespanError where the application cannot start, with its own exception, if any, as the cause. This is
        stricter than the specification: there, a server goes on without a lifespan where an application raises at
        lifespan.startup. But a database that cannot be reached must not make a reload take the server down. An
        application without a lifespan that raises at lifespan.startup needs `lifespan = "off"` in its route.
        """
        self._changed = News()
        self._task = asyncio.create_task(self._live())
        while self._phase in (_Phase.SCOPE, _Phase.STARTING):
            await self._changed.next()
        if self._failure is not None:
            raise self._failure

    async def shut_down(self) -> None:
        """Tell the application to shut down, and wait until it has. A failure is logged."""
        if self._phase is _Phase.RUNNING:
            self._enter(_Phase.LEAVING)
            while not self._is_over():
                await self._changed.next()

    def give_up(self) -> bool:
        """Log nothing more of this lifespan, as the caller is about to cancel it. False where it is over already."""
        self._told = True
        return not self._is_over()

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
            if forks.forked:
                forks.leave()
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            self._failed(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._enter(_Phase.OVER)

    def _failed(self, error: BaseException) -> None:
        if self._phase is _Phase.SCOPE or self._foreign:
            log.debug("the application has no lifespan: %r", error)
        elif self._phase is _Phase.STARTING:
            way_out = 'if it has none, write lifespan = "off" in its route'
            self._failure = LifespanError(f"the application's lifespan failed to start: {error!r}; {way_out}")
            self._failure.__cause__ = error
        elif self._failure is not None:
            self._failure.__cause__ = error  # the application first sent the failure, then raised it, as Starlette does
        elif not self._told and not isinstance(error, asyncio.CancelledError):
            self._told = True
            log.error("the application's lifespan failed: %r", error, exc_info=error)

    async def _receive(self) -> dict[str, Any]:
        if self._phase is _Phase.SCOPE:
            self._enter(_Phase.STARTING)
            return {"type": "lifespan.startup"}
        while self._phase is not _Phase.LEAVING:
            await self._changed.next()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and self._phase in (_Phase.SCOPE, _Phase.STARTING):
            self._enter(_Phase.RUNNING)
        elif kind == "lifespan.startup.failed" and self._phase in (_Phase.SCOPE, _Phase.STARTING):
            reason = str(message.get("message", "")).strip().rpartition("\n")[2]  # of a traceback, the last line
            why = reason or "it does not say why"
            self._failure = LifespanError(f"the application's lifespan failed to start: {why}")
            self._enter(_Phase.OVER)
        elif kind == "lifespan.shutdown.complete" and self._phase in (_Phase.LEAVING, _Phase.OVER):
            self._enter(_Phase.OVER)
        elif kind == "lifespan.shutdown.failed" and self._phase in (_Phase.RUNNING, _Phase.LEAVING, _Phase.OVER):
            # also without lifespan.shutdown: Starlette sends it when a lifespan is cancelled or fails, and then raises
            self._tell_failure(str(message.get("message", "")))
            if self._phase is _Phase.LEAVING:
                self._enter(_Phase.OVER)
        else:
            self._foreign = not str(kind).startswith("lifespan.")
            raise RuntimeError(f"an unexpected message in a lifespan: {kind!r}")

    def _tell_failure(self, text: str) -> None:
        """Log a failure, once. The application's `text` is a traceback, or one line."""
        if not self._told:
            self._told = True
            reason = text.strip().rpartition("\n")[2] or "it does not say why"
            report = text if "\n" in text.strip() else ""
            doing = "failed to shut down" if self._phase is not _Phase.RUNNING else "failed"
            log.error("the application's lifespan %s: %s", doing, reason, extra={"report": report})

    def _is_over(self) -> bool:
        return self._phase is _Phase.OVER

    def _enter(self, phase: _Phase) -> None:
        if self._phase is not _Phase.OVER:
            self._phase = phase
            self._changed.set()


async def take_back(lifespans: Iterable[Lifespan], seconds: float) -> None:
    """Shut down the lifespans that have started, all at once; wait for that for so many seconds at the most."""
    await asyncio.wait([asyncio.create_task(lifespan.shut_down()) for lifespan in lifespans], timeout=seconds)
