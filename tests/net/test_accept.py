"""Accepting: in turn with other processes, only where there is room, and through a lack of descriptors."""

from __future__ import annotations

import errno
import logging
import os
import resource
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefork.net.accept import FOR_EACH, LARGEST_BATCH, accept, accept_rest
from prefork.net.listen import bind
from prefork.runtime.loop import Loop
from prefork.runtime.poller import POLLERS, make_poller
from prefork.runtime.task import PARKED, PAUSE, Task
from prefork.settings.address import Address
from tests.conftest import eventually
from tests.net.conftest import PATIENCE, Run, forked


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.setblocking(False)
        yield listener


class Porch:
    """Greets clients, and keeps them; a test waits for `count` of them. `room` may be changed by a test."""

    def __init__(self, loop: Loop, stack: ExitStack) -> None:
        self.loop = loop
        self.stack = stack
        self.clients: list[tuple[socket.socket, Any]] = []
        self.asked: list[bool] = []
        self.waiting: Task | None = None

    def greet(self, client: socket.socket, address: Any) -> None:
        self.clients.append((self.stack.enter_context(client), address))
        if self.waiting is not None:
            self.waiting.wake()

    async def room(self, wanted: bool) -> None:
        self.asked.append(wanted)

    async def until(self, count: int) -> list[Any]:
        self.waiting = self.loop.current
        while len(self.clients) < count:
            await PARKED
        return [address for _, address in self.clients]

    def connect(self, listener: socket.socket) -> socket.socket:
        return self.stack.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))


@pytest.fixture
def porch(loop: Loop) -> Iterator[Porch]:
    with ExitStack() as stack:
        yield Porch(loop, stack)


class Clock:
    """Monotonic seconds, which go on only as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def work(self, seconds: float) -> None:
        """What others do in each turn, and how long it takes them."""
        while True:
            self.now += seconds
            await PAUSE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("runtime.loop", "net.accept"):
        monkeypatch.setattr(f"prefork.{module}.monotonic", clock)
    return clock


# ---- one process


def test_every_client_is_greeted_with_its_address(run: Run, loop: Loop, listener: socket.socket, porch: Porch) -> None:
    names = [porch.connect(listener).getsockname() for _ in range(5)]
    assert run(porch.until(5), accept(loop, listener, porch.room, porch.greet)) == names


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 1), (0.9 * FOR_EACH, 1), (1.5 * FOR_EACH, 2), (9.5 * FOR_EACH, 10), (1, LARGEST_BATCH)],
)
def test_one_client_is_accepted_a_turn_and_more_where_turns_are_long(
    run: Run, clock: Clock, loop: Loop, listener: socket.socket, porch: Porch, seconds: float, expected: int
) -> None:
    """Other processes, if they are idle, have their share of a burst; and nobody waits for as many turns as clients."""
    counts = []
    loop.after_turn.append(lambda: counts.append(len(porch.clients)))
    for _ in range(2 * expected + 10):
        porch.connect(listener)
    run(porch.until(2 * expected + 10), clock.work(seconds), accept(loop, listener, porch.room, porch.greet))
    assert max(later - earlier for earlier, later in pairwise(counts)) == expected
    assert len([count for count in counts if count]) <= 12 + 1


def test_turns_do_not_become_longer_by_what_new_clients_take(
    run: Run, clock: Clock, loop: Loop, listener: socket.socket, porch: Porch
) -> None:
    async def answer() -> None:
        clock.now += 100 * FOR_EACH

    def greet(client: socket.socket, address: Any) -> None:
        loop.spawn(answer(), "an answer", eager=True)
        porch.greet(client, address)

    counts = []
    loop.after_turn.append(lambda: counts.append(len(porch.clients)))
    for _ in range(10):
        porch.connect(listener)
    run(porch.until(10), clock.work(1.5 * FOR_EACH), accept(loop, listener, porch.room, greet))
    assert max(later - earlier for earlier, later in pairwise(counts)) == 2


def test_each_client_has_its_first_step_before_the_next_is_accepted(
    run: Run, clock: Clock, loop: Loop, listener: socket.socket, porch: Porch
) -> None:
    """A request that ends the process takes nobody with it who came behind it."""
    steps: list[tuple[str, int]] = []

    async def answer(number: int) -> None:
        steps.append(("answered", number))

    def greet(client: socket.socket, address: Any) -> None:
        steps.append(("accepted", len(porch.clients)))
        loop.spawn(answer(len(porch.clients)), "an answer", eager=True)
        porch.greet(client, address)

    for _ in range(20):
        porch.connect(listener)
    run(porch.until(20), clock.work(1), accept(loop, listener, porch.room, greet))
    assert steps[:38] == [(what, number) for number in range(19) for what in ("accepted", "answered")]


def test_no_more_are_accepted_in_a_turn_than_there_is_room_for(
    run: Run, clock: Clock, loop: Loop, listener: socket.socket, porch: Porch
) -> None:
    async def room(wanted: bool) -> None:
        if not wanted and len(porch.clients) == 3:
            await loop.sleep(3600)

    async def look() -> int:
        await porch.until(3)
        for _ in range(10):
            await PAUSE
        return len(porch.clients)

    for _ in range(5):
        porch.connect(listener)
    assert run(look(), clock.work(0.1), accept(loop, listener, room, porch.greet)) == 3
    for _ in range(2):
        listener.accept()[0].close()


def test_room_is_asked_for_before_and_after_there_is_a_client(
    run: Run, loop: Loop, listener: socket.socket, porch: Porch
) -> None:
    porch.connect(listener)
    run(porch.until(1), accept(loop, listener, porch.room, porch.greet))
    assert porch.asked[:2] == [False, True]


def test_no_room_is_made_for_a_client_that_is_not_there_even_where_turns_are_long(
    run: Run, clock: Clock, loop: Loop, listener: socket.socket, porch: Porch
) -> None:
    """An idle connection would be ended for nobody."""

    async def look() -> None:
        await porch.until(3)
        for _ in range(10):
            await PAUSE

    for _ in range(3):
        porch.connect(listener)
    run(look(), clock.work(0.1), accept(loop, listener, porch.room, porch.greet))
    assert porch.asked.count(True) == 3


@pytest.mark.parametrize("where", [False, True])
def test_nobody_is_accepted_where_there_is_no_room(
    run: Run, loop: Loop, listener: socket.socket, porch: Porch, where: bool
) -> None:
    """Who has to wait waits in the queue, for this process or another."""

    async def room(wanted: bool) -> None:
        if wanted is where and porch.clients:
            await loop.sleep(3600)

    async def look() -> int:
        await porch.until(1)
        for _ in range(10):
            await loop.sleep(0)
        return len(porch.clients)

    porch.connect(listener)
    porch.connect(listener)
    assert run(look(), accept(loop, listener, room, porch.greet)) == 1
    listener.accept()[0].close()


def test_a_client_whom_another_took_is_no_error(run: Run, loop: Loop, listener: socket.socket, porch: Porch) -> None:
    async def room(wanted: bool) -> None:
        if wanted and not stolen:
            stolen.append(porch.stack.enter_context(listener.accept()[0]))
            names.append(porch.connect(listener).getsockname())

    stolen: list[socket.socket] = []
    names: list[Any] = []
    porch.connect(listener)
    assert run(porch.until(1), accept(loop, listener, room, porch.greet)) == names


def test_a_client_who_has_left_already_is_no_error(run: Run, loop: Loop, listener: socket.socket, porch: Porch) -> None:
    gone = porch.connect(listener)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    name = porch.connect(listener).getsockname()
    run(porch.until(1), accept(loop, listener, porch.room, porch.greet))
    if porch.clients[-1][1] != name:  # on some systems the one who left is greeted as well
        run(porch.until(2), accept(loop, listener, porch.room, porch.greet))
    assert porch.clients[-1][1] == name


def test_a_client_whose_descriptor_cannot_be_watched_is_let_go(
    run: Run, loop: Loop, listener: socket.socket, porch: Porch, caplog: pytest.LogCaptureFixture
) -> None:
    """select(2) has such a limit; the client is to know at once, not when it has waited for an answer."""

    async def room(wanted: bool) -> None:
        loop.poller.limit = None if "cannot watch" in caplog.text else 0

    first = porch.connect(listener)
    second = porch.connect(listener).getsockname()
    assert run(porch.until(1), accept(loop, listener, room, porch.greet)) == [second]
    assert first.recv(1) == b""
    assert caplog.text.count("cannot watch descriptor") == 1


def test_the_rest_are_whoever_is_in_the_queue(listener: socket.socket, porch: Porch) -> None:
    names = [porch.connect(listener).getsockname() for _ in range(5)]
    accept_rest(porch.loop, listener, porch.greet)
    assert [address for _, address in porch.clients] == names
    accept_rest(porch.loop, listener, porch.greet)
    assert len(porch.clients) == 5


# ---- a listener from which nobody can accept any more


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_listener_that_was_shut_down_is_told_of_once_and_not_spun_on(
    run: Run,
    loop: Loop,
    porch: Porch,
    tmp_path: Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its error is there for good, at once: EINVAL of TCP, and EAGAIN of a unix socket that always looks ready."""
    monkeypatch.chdir(tmp_path)
    listener = bind(Address.parse("127.0.0.1:0" if kind == "tcp" else "unix:a.sock"))
    listener.listen()
    name = f"127.0.0.1:{listener.getsockname()[1]}" if kind == "tcp" else "unix:a.sock"
    turns: list[int] = []
    loop.after_turn.append(lambda: turns.append(1))

    async def wait() -> None:
        await loop.sleep(0.1)

    with listener:
        listener.shutdown(socket.SHUT_RDWR)
        run(wait(), accept(loop, listener, porch.room, porch.greet, pause=0.02))
    assert len(turns) < 30
    (said,) = caplog.messages
    assert f"cannot accept from {name}, which something has shut down" in said


# ---- a lack of descriptors


def test_a_process_without_descriptors_waits_without_spinning_and_accepts_again(listener: socket.socket) -> None:
    said, told = os.pipe()

    def serve() -> None:
        loop = Loop(make_poller())
        warnings: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("prefork").addHandler(handler)
        spare = os.dup(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, spare + 1))
        turns: list[int] = []
        clients: list[socket.socket] = []

        async def room(wanted: bool) -> None:
            pass

        async def relieve() -> None:
            while len(warnings) < 3:
                await loop.sleep(0.02)
            os.write(told, b"%d\n" % len(turns))
            assert not clients
            os.close(spare)

        def greet(client: socket.socket, address: Any) -> None:
            clients.append(client)
            loop.stop()

        loop.after_turn.append(lambda: turns.append(1))
        loop.spawn(accept(loop, listener, room, greet, pause=0.05), "accepting")
        loop.spawn(relieve(), "relieving")
        loop.run()
        assert os.strerror(errno.EMFILE) in warnings[0]
        clients[0].send(b"hello")

    with forked(serve), socket.create_connection(listener.getsockname(), PATIENCE) as client:
        assert client.recv(100) == b"hello"
        assert int(os.read(said, 100)) < 100, "it spins"
    os.close(said)
    os.close(told)


def test_descriptor_that_somebody_gives_up_is_the_next_clients_at_once(
    run: Run, loop: Loop, listener: socket.socket, porch: Porch, caplog: pytest.LogCaptureFixture
) -> None:
    name = porch.connect(listener).getsockname()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def relieve() -> bool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return True

    async def room(wanted: bool) -> None:
        if wanted and not exhausted:
            exhausted.append(os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (exhausted[0] + 1, hard))

    exhausted: list[int] = []
    try:
        run(porch.until(1), accept(loop, listener, room, porch.greet, relieve))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(exhausted[0])
    assert porch.clients[0][1] == name
    assert caplog.records == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux looks for a descriptor before it looks for a client")
def test_no_descriptor_is_asked_for_where_another_process_has_taken_the_client(
    run: Run, loop: Loop, listener: socket.socket, porch: Porch, caplog: pytest.LogCaptureFixture
) -> None:
    porch.connect(listener)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked: list[bool] = []
    done: list[int] = []

    async def relieve() -> bool:
        asked.append(True)
        return False

    async def room(wanted: bool) -> None:
        if wanted and not done:
            listener.accept()[0].close()
            done.append(os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (done[0] + 1, hard))

    async def look() -> None:
        while not done:
            await PAUSE
        for _ in range(10):
            await PAUSE

    try:
        run(look(), accept(loop, listener, room, porch.greet, relieve))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(done[0])
    assert not asked
    assert caplog.records == []


# ---- several processes


@pytest.mark.skipif("epoll" not in POLLERS, reason="only epoll can wake one of several")
def test_idle_processes_take_turns(listener: socket.socket) -> None:
    said, told = os.pipe()

    def serve(name: bytes) -> None:
        loop = Loop(make_poller("epoll"))
        news = [b""]

        async def room(wanted: bool) -> None:
            if not wanted:
                news.append(name)  # about to wait

        def tell() -> None:
            if news:
                os.write(told, name)
                news.clear()

        def greet(client: socket.socket, address: Any) -> None:
            with client:
                client.send(name)

        loop.after_turn.append(tell)
        loop.spawn(accept(loop, listener, room, greet), "accepting")
        loop.run()

    def until_idle(*pids: int) -> bytes:
        """Until one has said that it is about to wait, and all of them do; who that was."""
        assert select.select([said], [], [], PATIENCE)[0], "nobody is idle again"
        name = os.read(said, 1)
        processes = [psutil.Process(pid) for pid in pids]
        eventually(lambda: all(each.status() == psutil.STATUS_SLEEPING for each in processes), PATIENCE)
        return name

    with forked(lambda: serve(b"A")) as first, forked(lambda: serve(b"B")) as second:
        assert {until_idle(), until_idle(first, second)} == {b"A", b"B"}
        taken = []
        for _ in range(20):
            with socket.create_connection(listener.getsockname(), PATIENCE) as client:
                taken.append(client.recv(1))
            assert until_idle(first, second) == taken[-1]
        assert all(one != next for one, next in pairwise(taken)), b"".join(taken)
    os.close(said)
    os.close(told)
