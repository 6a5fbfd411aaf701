"""Stacks: what the application does is shown, whoever it calls; how we came to call it is not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from prefork.handlers.wsgi_files import ErrorStream
from prefork.kernel.stack import stack
from tests.kernel.crews import Ship, wait


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
        await ship.until(lambda: ship.crew.calls.away)
        (call,) = ship.crew.calls.away.values()
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
