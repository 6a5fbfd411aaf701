"""What cannot be waited for is the trouble of the task that tried, and of nobody else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import suppress
from types import coroutine

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.task import PAUSE
from tests.runtime.conftest import Crashes, Noted, Pairs


def test_a_descriptor_beyond_the_limit_is_the_trouble_of_its_task(
    loop: Loop, pair: Pairs, poller: Noted, high_descriptor: int
) -> None:
    left, right = pair()
    seen: list[str] = []

    async def wait() -> None:
        ready = loop.readable(high_descriptor)
        for _ in range(2):  # and again: it must not be taken for registered
            try:
                await ready
                seen.append("readable")
            except OSError as error:
                seen.append(str(error))

    async def other() -> None:
        await loop.readable(left.fileno())
        seen.append("other")

    loop.spawn(wait(), "beyond")
    loop.spawn(other(), "other")
    loop.turn()
    right.send(b"x")
    loop.run()
    refusal = "[Errno 24] select cannot watch descriptor 1024: its limit is 1023; use poll or epoll"
    assert sorted(seen) == sorted(["other", *["readable" if poller.limit is None else refusal] * 2])


def test_a_refused_descriptor_that_is_not_caught_is_logged(loop: Loop, crashes: Crashes) -> None:
    async def wait() -> None:
        await loop.readable(-1)  # what fileno() says of a closed socket

    loop.spawn(wait(), "broken")
    loop.run()
    assert [record.getMessage() for record in crashes] == ["broken crashed"]
    crashes.clear()


def test_a_descriptor_that_is_not_open_hurts_nobody_else(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    closed = os.dup(left.fileno())
    os.close(closed)
    seen: list[str] = []

    async def wait() -> None:
        try:
            await loop.readable(closed)
            os.read(closed, 1)  # poll(2) reports it, so that reading tells
        except OSError:
            seen.append("EBADF")

    async def other() -> None:
        await loop.readable(left.fileno())
        seen.append("other")

    loop.spawn(wait(), "closed")
    loop.spawn(other(), "other")
    for _ in range(3):
        loop.turn()
    right.send(b"x")
    loop.run()
    assert seen == ["EBADF", "other"]


def test_a_regular_file_is_ready_or_refused(loop: Loop) -> None:
    seen: list[str] = []

    async def wait(fd: int) -> None:
        with suppress(PermissionError):  # epoll(7)
            await loop.readable(fd)
        seen.append("told")

    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.seek(0)
        loop.spawn(wait(file.fileno()), "file")
        loop.run()
    assert seen == ["told"]


@pytest.mark.parametrize("shared", [True, False], ids=["one Readiness", "two"])
def test_a_second_task_for_the_same_descriptor_is_refused_and_the_first_lives(
    loop: Loop, pair: Pairs, crashes: Crashes, shared: bool
) -> None:
    left, right = pair()
    ready = loop.readable(left.fileno())
    seen: list[str] = []

    async def wait(name: str) -> None:
        await (ready if shared else loop.readable(left.fileno()))
        seen.append(name)

    loop.spawn(wait("first"), "first")
    loop.spawn(wait("second"), "second")
    for _ in range(3):
        loop.turn()
    right.send(b"x")
    loop.run()
    assert seen == ["first"]
    assert [record.getMessage() for record in crashes] == ["second crashed"]
    crashes.clear()


def test_one_task_after_another_may_wait_for_the_same_descriptor(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()
    right.send(b"ab")
    ready = loop.readable(left.fileno())
    seen = b""

    async def read(turns: int) -> None:
        nonlocal seen
        for _ in range(turns):
            await PAUSE
        await ready
        seen += left.recv(1)

    loop.spawn(read(0), "first")
    loop.spawn(read(5), "second")
    loop.run()
    assert seen == b"ab"


@coroutine
def foreign() -> Generator[object, None, None]:
    """What an awaitable of another event loop does."""
    yield object()


def test_who_awaits_what_the_loop_does_not_know_crashes_alone(loop: Loop, pair: Pairs, crashes: Crashes) -> None:
    left, right = pair()
    right.send(b"x")
    seen: list[str] = []

    async def stray() -> None:
        await loop.readable(left.fileno())
        await foreign()

    async def stray_at_once() -> None:
        await foreign()

    async def live() -> None:
        await loop.sleep(0.01)
        seen.append("lived")

    loop.spawn(stray(), "stray")
    loop.spawn(stray_at_once(), "stray at once")
    loop.spawn(live(), "live")
    loop.run()
    assert seen == ["lived"]
    assert sorted(record.getMessage() for record in crashes) == ["stray at once crashed", "stray crashed"]
    crashes.clear()
