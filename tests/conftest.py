"""What every test may use: `eventually`, `needs`, and the check that the run leaves no process behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import psutil
import pytest

from prefork.logger import DEBUG, Record, log

T = TypeVar("T")


def pytest_configure() -> None:
    """A shell starts what runs in the background with INT ignored, which the servers and commands would inherit. And
    those of this run meet in a runtime directory of its own: a short one, as the names of sockets have to be short.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="prefork-")


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"], ignore_errors=True)


def eventually(condition: Callable[[], T], within: float = 5.0, what: str | Callable[[], str] = "the condition") -> T:
    """The first true value of `condition()`; fails, naming `what`, when there is none within so many seconds.

    The one place where a test sleeps.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.005)
    return value


def needs(*tools: str) -> None:
    """Skip this test where one of the programs is not installed; with PREFORK_REQUIRE_TOOLS=1 (CI) fail instead."""
    for tool in tools:
        if shutil.which(tool) is None:
            if os.environ.get("PREFORK_REQUIRE_TOOLS") == "1":
                pytest.fail(f"{tool} is not installed")
            pytest.skip(f"{tool} is not installed")


def describe(processes: list[psutil.Process]) -> str:
    """Pid, state and command line of each that is still there, for a failure's message."""
    lines = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            lines.append(f"{process.pid} ({process.status()}): {' '.join(process.cmdline()) or process.name()}")
    return "; ".join(lines)


def repeat(record: Record) -> None:
    """Say it once more by the logger "prefork" of the standard library, which `caplog` and a test's handlers hear."""
    logger = logging.getLogger("prefork")
    if not logger.isEnabledFor(record.level):
        return
    error = record.error
    raised = (type(error), error, error.__traceback__) if error is not None else None
    report = {"report": "\n".join(record.details)}
    logger.handle(logger.makeRecord("prefork", record.level, "", 0, record.text, (), raised, extra=report))


@pytest.fixture(autouse=True)
def the_log_is_heard() -> Iterator[None]:
    before, log.level = log.level, DEBUG
    log.handlers.append(repeat)
    yield
    log.handlers.remove(repeat)
    log.level = before


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Children of the test process that are there when the run ends, zombies included, fail its last test."""
    yield
    here = psutil.Process()
    eventually(
        lambda: not here.children(recursive=True),
        within=1,
        what=lambda: f"the end of all processes that the tests started: {describe(here.children(recursive=True))}",
    )
