"""Tasks that wait for descriptors: woken when they are ready, and heard of no longer than they wait."""

from __future__ import annotations

import socket

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.poller import READ, WRITE
from prefork.runtime.task import PAUSE
from tests.runtime.conftest import Noted, Pair, Pairs, drain, fill


def test_a_task_goes_on_when_bytes_arrive(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    order: list[object] = []

    async def read() -> None:
        await loop.readable(left.fileno())
        order.append(left.recv(10))

    async def write() -> None:
        await loop.sleep(0.01)
        order.append("write")
        right.send(b"hello")

    loop.spawn(read(), "reader")
    loop.spawn(write(), "writer")
    loop.run()
    assert order == ["write", b"hello"]


def test_a_task_goes_on_when_there_is_room_to_write(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    fill(left)
    order: list[str] = []

    async def write() -> None:
        await loop.writable(left.fileno())
        left.send(b"x")
        order.append("written")

    async def read() -> None:
        await loop.sleep(0.01)
        order.append("read")
        drain(right)

    loop.spawn(write(), "writer")
    loop.spawn(read(), "reader")
    loop.run()
    assert order == ["read", "written"]


def test_one_task_reads_while_another_writes_the_same_descriptor(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()
    fill(left)
    done: list[str] = []

    async def read() -> None:
        await loop.readable(left.fileno())
        left.recv(1)
        done.append("read")
        drain(right)

    async def write() -> None:
        await loop.writable(left.fileno())
        done.append("written")

    async def send() -> None:
        await loop.sleep(0.01)
        right.send(b"x")

    for task in (read(), write(), send()):
        loop.spawn(task, "one")
    loop.run()
    assert done == ["read", "written"]
    assert poller.watched[:2] == [(left.fileno(), READ), (left.fileno(), READ | WRITE)]


@pytest.mark.parametrize("waits_to", ["read", "write"])
def test_a_task_hears_of_a_hang_up(loop: Loop, pair: Pairs, waits_to: str) -> None:
    left, right = pair()
    fill(left)
    seen: list[str] = []

    async def wait() -> None:
        await (loop.readable if waits_to == "read" else loop.writable)(left.fileno())
        seen.append("hang-up")

    async def close() -> None:
        await PAUSE
        right.close()

    loop.spawn(wait(), "waiting")
    loop.spawn(close(), "closing")
    loop.run()
    assert seen == ["hang-up"]


def test_interest_stays_registered_between_waits(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()

    async def echo(sock: socket.socket, first: bool) -> None:
        ready = loop.readable(sock.fileno())
        if first:
            sock.send(b"x")
        for _ in range(100):
            await ready
            sock.send(sock.recv(1))

    loop.spawn(echo(left, True), "left")
    loop.spawn(echo(right, False), "right")
    loop.run()
    assert sorted(poller.watched) == sorted([(left.fileno(), READ), (right.fileno(), READ)])
    assert poller.forgotten == []


def test_interest_stays_registered_while_the_task_does_something_else(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()

    async def read() -> None:
        ready = loop.readable(left.fileno())
        for _ in range(5):
            right.send(b"x")
            await ready
            left.recv(1)
            await loop.sleep(0.001)
            await PAUSE

    loop.spawn(read(), "reader")
    loop.run()
    assert poller.watched == [(left.fileno(), READ)]
    assert poller.forgotten == []


@pytest.mark.parametrize("hang_up", [False, True], ids=["bytes", "hang-up"])
def test_who_stops_waiting_is_not_heard_of(loop: Loop, pair: Pairs, poller: Noted, hang_up: bool) -> None:
    left, right = pair()
    right.send(b"more than is read")

    async def read() -> None:
        ready = loop.readable(left.fileno())
        await ready
        left.recv(1)
        if hang_up:
            right.close()
        await loop.sleep(0.1)
        await ready
        assert left.recv(3) == b"ore"

    loop.spawn(read(), "reader")
    loop.run()
    assert len(poller.timeouts) < 10
    assert poller.forgotten == [left.fileno()]
    assert poller.watched == [(left.fileno(), READ)] * 2


def test_who_has_ended_is_not_heard_of(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()
    right.send(b"never read")

    async def read() -> None:
        await loop.readable(left.fileno())

    async def sleep() -> None:
        await loop.sleep(0.1)

    loop.spawn(read(), "reader")
    loop.spawn(sleep(), "sleeper")
    loop.run()
    assert len(poller.timeouts) < 10
    assert poller.forgotten == [left.fileno()]


def test_bytes_that_nobody_reads_do_not_disturb_a_writer(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()
    right.send(b"more than is read")

    async def serve() -> None:
        await loop.readable(left.fileno())
        left.recv(1)
        fill(left)
        await loop.writable(left.fileno())

    async def unblock() -> None:
        await loop.sleep(0.1)
        drain(right)

    loop.spawn(serve(), "server")
    loop.spawn(unblock(), "client")
    loop.run()
    assert len(poller.timeouts) < 10
    assert poller.watched == [(left.fileno(), READ), (left.fileno(), READ | WRITE), (left.fileno(), WRITE)]


def test_room_that_nobody_writes_into_does_not_disturb_a_reader(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()

    async def serve() -> None:
        await loop.writable(left.fileno())
        await loop.readable(left.fileno())

    async def send() -> None:
        await loop.sleep(0.1)
        right.send(b"x")

    loop.spawn(serve(), "server")
    loop.spawn(send(), "client")
    loop.run()
    assert len(poller.timeouts) < 10


def test_a_number_that_is_closed_and_reused_in_the_same_turn_confuses_nobody(loop: Loop, pair: Pairs) -> None:
    left, left_peer = pair()
    right, right_peer = pair()
    reused: list[Pair] = []
    seen: list[object] = []

    async def wait(sock: socket.socket, other: socket.socket) -> None:
        await loop.readable(sock.fileno())
        if reused:
            return
        loop.forget(other.fileno())  # whose readiness has been reported, too, in this very turn
        number = other.fileno()
        other.close()
        reused.append(pair())
        fresh, peer = sorted(reused[0], key=lambda one: one.fileno() != number)
        assert fresh.fileno() == number
        loop.spawn(read(fresh), "reusing")
        await loop.sleep(0.01)
        peer.send(b"fresh")

    async def read(sock: socket.socket) -> None:
        ready = loop.readable(sock.fileno())
        while True:
            await ready
            try:
                seen.append(sock.recv(10))
            except BlockingIOError:  # told too much, which is allowed
                continue
            return

    first = loop.spawn(wait(left, right), "left")
    second = loop.spawn(wait(right, left), "right")
    loop.turn()
    left_peer.send(b"old")
    right_peer.send(b"old")
    while seen != [b"fresh"]:
        loop.turn()
    assert len(loop.tasks & {first, second}) <= 1  # the one whose descriptor was taken away from it


def test_a_reader_that_ends_spares_the_writer_of_the_same_report(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    fill(left)
    seen: list[str] = []

    async def read() -> None:
        await loop.readable(left.fileno())
        seen.append("reader")
        writer.throw(ConnectionError())
        loop.forget(left.fileno())
        left.close()

    async def write() -> None:
        try:
            await loop.writable(left.fileno())
            seen.append("told of a closed descriptor")
        except ConnectionError:
            seen.append("thrown")

    loop.spawn(read(), "reader")
    writer = loop.spawn(write(), "writer")
    loop.turn()
    right.close()
    loop.run()
    assert seen == ["reader", "thrown"]


def test_forget_says_no_more(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()
    loop.forget(left.fileno())  # unknown: fine

    async def read() -> None:
        await loop.readable(left.fileno())
        loop.forget(left.fileno())
        await loop.sleep(0.05)

    right.send(b"x")
    loop.spawn(read(), "reader")
    loop.run()
    assert len(poller.timeouts) < 10


def test_ready_tasks_cannot_starve_descriptors(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    got = 0
    steps = 0

    async def spin() -> None:
        nonlocal steps
        while got < 20:
            steps += 1
            await PAUSE

    async def ping() -> None:  # two that keep waking each other
        while got < 20:
            pong_task.wake()
            await PAUSE

    async def read() -> None:
        nonlocal got
        ready = loop.readable(left.fileno())
        for _ in range(20):
            right.send(b"x")
            await ready
            left.recv(1)
            got += 1

    loop.spawn(spin(), "spinner")
    loop.spawn(ping(), "ping")
    pong_task = loop.spawn(ping(), "pong")
    loop.spawn(read(), "reader")
    loop.run()
    assert steps < 50  # about one a turn


def test_descriptors_cannot_starve_sleepers_and_ready_tasks(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    right.send(b"always readable")
    seen: list[str] = []

    async def busy() -> None:
        ready = loop.readable(left.fileno())
        while len(seen) < 2:
            await ready

    async def sleep() -> None:
        await loop.sleep(0.02)
        seen.append("slept")

    async def pause() -> None:
        await PAUSE
        seen.append("paused")

    for task in (busy(), sleep(), pause()):
        loop.spawn(task, "one")
    loop.run()
    assert seen == ["paused", "slept"]


def test_hundreds_of_descriptors_wait_at_once(loop: Loop, pair: Pairs, poller: Noted) -> None:
    pairs = [pair() for _ in range(200)]
    got = 0

    async def read(sock: socket.socket) -> None:
        nonlocal got
        ready = loop.readable(sock.fileno())
        for _ in range(5):
            await ready
            got += len(sock.recv(1))

    for left, _ in pairs:
        loop.spawn(read(left), "reader")
    loop.turn()
    for _ in range(5):
        for _, right in pairs:
            right.send(b"x")
        loop.turn()
    loop.run()
    assert got == 1000
    assert len(poller.watched) == 200
