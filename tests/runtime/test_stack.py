"""Stacks: what the application does is shown, whoever it calls; how we came to call it is not."""

from __future__ import annotations

import contextlib
import logging
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from prefork.handlers.apps.wsgi.file_wrapper import ErrorStream
from prefork.runtime.stack import awaited, stack
from tests.runtime.thread_pools import Ship, wait


class Blocking(logging.Handler):
    """Keeps who logs an error until `event`."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__(logging.ERROR)
        self.event = event

    def emit(self, record: logging.LogRecord) -> None:
        wait(self.event)


@pytest.fixture
def event() -> Iterator[threading.Event]:
    """Logging waits for it."""
    event = threading.Event()
    handler = Blocking(event)
    logging.getLogger("prefork").addHandler(handler)
    yield event
    logging.getLogger("prefork").removeHandler(handler)


@pytest.mark.parametrize("pinned", [False, True], ids=["inline", "pinned"])
def test_an_application_stuck_below_a_callback_of_ours_is_shown(event: threading.Event, pinned: bool) -> None:
    ship = Ship(1, pinned)
    shown: list[str] = []

    def the_view() -> None:
        ErrorStream().write("something failed\n")

    async def look() -> None:
        await ship.until(lambda: ship.pool.calls.under_way)
        (call,) = ship.pool.calls.under_way.values()
        while "in emit" not in (text := stack(call.thread)):
            await ship.loop.sleep(0.001)
        shown.append(text)
        event.set()

    ship.run(ship.call(the_view), look())
    (text,) = shown
    assert text.index("in the_view") < text.index("in write") < text.index("in emit")
    assert "leader.py" not in text


def test_a_thread_that_has_ended_has_no_stack() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert stack(thread.ident) == ""


@contextlib.asynccontextmanager
async def entered() -> AsyncIterator[None]:
    await inner()
    yield


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield from inner().__await__()


@types.coroutine
def innermost() -> Iterator[None]:
    yield


async def inner() -> None:
    await innermost()


async def by_a_context_manager() -> None:
    async with entered():
        pass


async def by_an_object() -> None:
    await Awaitable()


@pytest.mark.parametrize(
    ("coroutine", "names"),
    [
        (by_a_context_manager, ["by_a_context_manager", "__aenter__", "entered", "inner", "innermost"]),
        (by_an_object, ["by_an_object", "__await__", "inner", "innermost"]),
    ],
)
def test_where_a_suspended_coroutine_waits_is_told_through_all_that_it_awaits(
    coroutine: Callable[[], Coroutine[Any, Any, None]], names: list[str]
) -> None:
    waiting = coroutine()
    waiting.send(None)
    try:
        lines = [line for line in awaited(waiting).splitlines() if line.startswith("  File")]
        assert [line.rpartition(" in ")[2] for line in lines] == names
    finally:
        waiting.close()


def test_a_coroutine_that_is_over_waits_nowhere() -> None:
    over = inner()
    over.close()
    assert awaited(over) == ""
