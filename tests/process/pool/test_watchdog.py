"""The watchdog: which workers it takes for stuck, what it does about them, and which it leaves alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf
from time import monotonic

import pytest

from prefork.process.pool import watchdog
from prefork.process.pool.child import Child
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller

TIMEOUT = 0.2
LOOK = 0.02  # seconds between two looks, and those that a stuck worker has to log where it is


class Ward:
    """A loop with the watchdog over one child that is no process; `line` is the child's end of the line to it."""

    def __init__(self) -> None:
        self.loop = Loop(make_poller())
        ours, self.line = socket.socketpair()
        self.signals: list[int] = []
        self.child = Child(self.loop, os.getpid(), ours.detach())
        self.began = inf  # the turn that its loop is in
        self.child.turn = lambda: self.began
        self.child.signal = self.signals.append  # type: ignore[method-assign]

    def watch(self, looks: float) -> bool:
        """Whether the child is to be replaced once there was time for so many looks."""

        async def end() -> None:
            await self.loop.sleep(looks * LOOK)
            self.loop.stop()

        keep = watchdog.keep(self.loop, lambda: [self.child], TIMEOUT, look_interval=LOOK, stacks_timeout=LOOK)
        keeping = self.loop.spawn(keep, "the watchdog")
        self.loop.spawn(end(), "the end")
        self.loop.run()
        keeping.cancel()
        return self.child.departing.is_set()


@pytest.fixture
def ward() -> Iterator[Ward]:
    ward = Ward()
    yield ward
    ward.line.close()
    ward.child.hang_up()
    ward.loop.close()


def test_a_worker_that_idles_is_left_alone_for_ever(ward: Ward) -> None:
    assert not ward.watch(5)


def test_a_worker_in_a_turn_that_has_just_begun_is_left_alone(ward: Ward) -> None:
    ward.began = monotonic()
    assert not ward.watch(5)


def test_a_worker_too_long_in_a_turn_is_asked_and_where_it_cannot_answer_dumped_and_replaced(ward: Ward) -> None:
    ward.began = monotonic() - TIMEOUT
    assert ward.watch(60)
    assert ward.line.recv(10) == b"?"  # once
    assert ward.signals == [watchdog.signal.SIGUSR2]


def test_a_worker_whose_pulse_makes_no_sense_for_too_long_is_replaced(ward: Ward) -> None:
    ward.began = -inf
    assert ward.child.stuck < TIMEOUT
    assert ward.watch(60)


def test_a_worker_whose_pulse_made_no_sense_for_a_moment_is_left_alone(ward: Ward) -> None:
    ward.began = -inf
    assert ward.child.stuck < TIMEOUT
    ward.began = inf
    assert not ward.watch(20)
    assert ward.child.stuck == 0


def test_a_worker_that_is_stopped_too_long_is_replaced_without_a_word(ward: Ward) -> None:
    ward.child.stopped = monotonic() - TIMEOUT
    assert ward.watch(5)
    assert ward.signals == []
    ward.line.setblocking(False)
    with pytest.raises(BlockingIOError):
        ward.line.recv(10)


def test_a_worker_that_is_to_be_replaced_already_is_not_asked_again(ward: Ward) -> None:
    ward.child.departing.set()
    ward.began = monotonic() - TIMEOUT
    assert ward.watch(5)
    assert ward.signals == []
