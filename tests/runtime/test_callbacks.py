"""Callbacks: whatever another thread posts is heard, and the loop is woken only where it sleeps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from prefork.errors import ForkedError
from prefork.runtime import callbacks, forks
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.task import PAUSE
from tests.conftest import eventually

Write = Callable[[int, bytes], int]


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(make_poller())
    loop.callbacks.open(loop)
    loop.turn(0)
    yield loop
    loop.close()
    loop.callbacks.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What has been written to wake the loop."""
    written: list[bytes] = []
    write: Write = os.write
    monkeypatch.setattr(callbacks.os, "write", lambda fd, data: (written.append(data), write(fd, data))[1])
    return written


def elsewhere(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_loop_that_sleeps_is_woken_once_by_all_who_post(loop: Loop, written: list[bytes]) -> None:
    heard: list[int] = []

    def post() -> None:
        eventually(lambda: loop.callbacks.asleep)
        for number in range(100):
            loop.callbacks.add(partial(heard.append, number))

    thread = threading.Thread(target=post)
    thread.start()
    while len(heard) < 100:
        loop.turn()
    thread.join()
    assert heard == list(range(100))
    assert len(written) <= 100  # of those that come while it sleeps one, however many they are
    assert written[0] == b"!"


def test_a_loop_that_turns_is_not_woken(loop: Loop, written: list[bytes]) -> None:
    heard: list[str] = []

    async def main() -> None:
        for word in ("first", "second"):
            elsewhere(lambda word=word: loop.callbacks.add(partial(heard.append, word)))  # type: ignore[misc]
        await PAUSE

    task = loop.spawn(main(), "a test's")
    while task in loop.tasks:
        loop.turn(0)
    assert heard == ["first", "second"]
    assert written == []


def test_what_is_posted_just_before_the_loop_polls_keeps_it_from_sleeping(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    poll = loop.poller.poll
    limits: list[float | None] = []
    monkeypatch.setattr(loop.poller, "poll", lambda limit: (limits.append(limit), poll(limit))[1])
    loop.after_turn.append(lambda: None if heard or limits[1:] else loop.callbacks.add(partial(heard.append, "late")))
    loop.turn(0)
    loop.turn()
    loop.turn(5)
    assert heard == ["late"]
    assert limits[1] in (None, 0.0)


def test_what_goes_wrong_is_told_and_the_others_are_heard(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise ValueError("the cause")

    loop.callbacks.add(fail)
    loop.callbacks.add(partial(heard.append, "the other"))
    loop.turn(0)
    assert heard == ["the other"]
    assert "the cause" in caplog.text


def test_nothing_is_posted_from_a_forked_process(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "forked", True)
    with pytest.raises(ForkedError):
        loop.callbacks.add(lambda: None)
    assert not loop.callbacks.waiting
