"""Tasks that wait for descriptors: woken when they are ready, and heard of no longer than they wait."""

from __future__ import annotations

import logging
import os
import resource
import socket
import tempfile
import threading
from collections.abc import Callable, Generator
from types import coroutine

import pytest

from prefork.kernel.loop import PAUSE, Loop
from prefork.kernel.poller import EXCLUSIVE, READ, WRITE, Poller
from tests.kernel.conftest import Noted, Pair

Pairs = Callable[[], Pair]
Crashes = list[logging.LogRecord]


def fill(sock: socket.socket) -> None:
    try:
        while True:
            sock.send(b"x" * 65536)
    except BlockingIOError:
        pass


def drain(sock: socket.socket) -> None:
    try:
        while sock.recv(1 << 20):
            pass
    except BlockingIOError:
        pass


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


def beyond(pair: Pairs) -> int:
    """A readable descriptor above what select(2) can watch; the caller closes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    left, right = pair()
    right.send(b"x")
    return os.dup2(left.fileno(), 1024)


def test_a_descriptor_beyond_the_limit_is_the_trouble_of_its_task(loop: Loop, pair: Pairs, poller: Noted) -> None:
    high = beyond(pair)
    left, right = pair()
    seen: list[str] = []

    async def wait() -> None:
        ready = loop.readable(high)
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
    os.close(high)
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
        try:
            await loop.readable(fd)
        except PermissionError:  # epoll(7)
            pass
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


def test_a_listener_is_watched_exclusively_and_stays_registered(loop: Loop, poller: Noted) -> None:
    clients: list[socket.socket] = []

    async def accept(listener: socket.socket) -> None:
        ready = loop.readable(listener.fileno(), exclusive=True)
        for _ in range(4):
            await ready
            listener.accept()[0].close()

    async def connect(address: tuple[str, int]) -> None:
        for _ in range(4):
            clients.append(socket.create_connection(address))
            await PAUSE

    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.spawn(accept(listener), "listener")
        loop.spawn(connect(listener.getsockname()), "clients")
        loop.run()
        assert poller.watched == [(listener.fileno(), READ | EXCLUSIVE)]
    for client in clients:
        client.close()


def test_who_stops_waiting_for_a_listener_leaves_the_clients_to_others(
    new_poller: Callable[[], Poller], crashes: Crashes
) -> None:
    # EPOLLEXCLUSIVE wakes one of those that are registered, and nobody else if that one does not want to accept
    full, free = Loop(new_poller()), Loop(new_poller())
    accepted: list[str] = []

    async def accept(loop: Loop, name: str, listener: socket.socket, room: int) -> None:
        ready = loop.readable(listener.fileno(), exclusive=True)
        for _ in range(room):
            await ready
            listener.accept()[0].close()
            accepted.append(name)
        await loop.sleep(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        full.spawn(accept(full, "full", listener, 1), "full")
        full.turn()
        with socket.create_connection(listener.getsockname()):
            full.turn()
        free.spawn(accept(free, "free", listener, 1), "free")
        free.turn()
        threads = [threading.Thread(target=loop.turn) for loop in (full, free)]
        for thread in threads:
            thread.start()
        threads[1].join(0.1)  # both sleep in their pollers by then, most likely
        with socket.create_connection(listener.getsockname()):
            threads[1].join(0.3)
            assert accepted == ["full", "free"]
        for thread in threads:
            thread.join()
    full.close()
    free.close()
    assert crashes == []


def test_a_listener_that_was_left_is_waited_for_again(loop: Loop, poller: Noted) -> None:
    async def accept(listener: socket.socket) -> None:
        ready = loop.readable(listener.fileno(), exclusive=True)
        for _ in range(3):
            await ready
            listener.accept()[0].close()
            await loop.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(3)]
        loop.spawn(accept(listener), "listener")
        loop.run()
        assert len(poller.timeouts) < 20
    for client in clients:
        client.close()


def test_leaving_a_listener_spares_who_has_its_number_now(loop: Loop, pair: Pairs) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.fileno()
    seen: list[str] = []

    async def accept() -> None:
        try:
            await loop.readable(number, exclusive=True)
        except ConnectionError:
            seen.append("left")

    async def read(sock: socket.socket) -> None:
        await loop.readable(sock.fileno())
        seen.append("read")

    accepting = loop.spawn(accept(), "listener")
    loop.turn()
    loop.forget(number)
    listener.close()
    fresh, peer = sorted(pair(), key=lambda one: one.fileno() != number)
    assert fresh.fileno() == number
    loop.spawn(read(fresh), "reader")
    loop.turn()
    accepting.throw(ConnectionError())
    loop.turn()
    peer.send(b"x")
    loop.run()
    assert seen == ["left", "read"]


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
