"""Saturation: calls that are turned away are told of by their number, with what keeps the threads busy."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from prefork.runtime.threads import QUEUED
from tests.handlers.apps.live import PATIENCE, Live, live, rest
from tests.handlers.exchange import parse, request

BRISK = 0.02  # seconds: the loop's sweep


class Holding:
    """An application whose calls last until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.called: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.called.append(environ["PATH_INFO"])
        assert self.go.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]


def ask(here: Live, path: str) -> Callable[[], int]:
    """Begin to ask; what then waits for the status of the answer."""
    client = here.connect(request(path, "Connection: close"))
    return lambda: parse(rest(client)).status


@pytest.mark.parametrize("pinned", [False, True])
def test_the_first_is_told_at_once_and_the_others_by_their_number(
    pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    application = Holding()
    with live(application, pinned=pinned, queue_timeout=0.05, notices=0.3, sweep=BRISK) as here:
        held = [ask(here, "/slowest")]
        here.until(lambda: application.called == ["/slowest"])
        here.until(lambda: here.pool.calls.under_way)
        held.append(ask(here, "/slow"))
        here.until(lambda: len(application.called) == 2)
        assert ask(here, "/first")() == 503
        assert len(caplog.records) == 1
        more = [ask(here, f"/{number}") for number in range(3)]
        assert [status() for status in more] == [503] * 3
        assert len(caplog.records) == 1
        here.until(lambda: len(caplog.records) == 2)
        application.go.set()
        assert [status() for status in held] == [200, 200]
    first, others = caplog.records
    assert first.levelname == others.levelname == "WARNING"
    words = r"2 of 2 threads busy, {} turned away with 503 after workers\.queue_timeout \(0\.05 s\); "
    words += r"the slowest one under way, for \d+\.\d s: GET /slowest"
    assert re.fullmatch(words.format("1 call"), first.getMessage())
    assert re.fullmatch(words.format("3 calls"), others.getMessage())


def test_nothing_is_told_of_calls_that_wait_and_are_made(caplog: pytest.LogCaptureFixture) -> None:
    application = Holding()
    with live(application, queue_timeout=PATIENCE, sweep=BRISK) as here:
        held = [ask(here, f"/{number}") for number in range(5)]
        here.until(lambda: here.pool.counts[QUEUED])
        application.go.set()
        assert [status() for status in held] == [200] * 5
    assert not caplog.records
