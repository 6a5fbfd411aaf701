"""Random programs: whatever tasks do to each other, no byte and no wake-up is lost."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.errors import TimedOut
from prefork.runtime.loop import Loop
from prefork.runtime.poller import Poller
from prefork.runtime.task import PARKED, PAUSE, Task, Wait

HASTY = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=50)


class Jolt(Exception):
    """What is thrown into tasks at random moments."""


async def patiently(wait: Callable[[], Wait]) -> None:
    """Await it whatever is thrown meanwhile; who looks again at what he waits for may go on too early."""
    with suppress(Jolt, TimedOut):
        await wait()


class Conversation:
    """A writer and a reader of one socket pair, each with its own pace."""

    def __init__(self, loop: Loop, stack: ExitStack, seed: random.Random, size: int) -> None:
        self.loop = loop
        self.seed = seed
        self.data = seed.randbytes(size)
        self.received = b""
        self.left, self.right = socket.socketpair()
        for sock in (self.left, self.right):
            stack.enter_context(sock).setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.tasks = [loop.spawn(self.write(), "writer"), loop.spawn(self.read(), "reader")]

    async def idle(self) -> None:
        choice = self.seed.random()
        if choice < 0.1:
            await patiently(lambda: self.loop.sleep(self.seed.random() / 500))
        elif choice < 0.3:
            await patiently(lambda: PAUSE)
        elif choice < 0.4:
            self.loop.current.wake()
            await patiently(lambda: PARKED)

    async def write(self) -> None:
        room = self.loop.writable(self.left.fileno())
        rest = self.data
        while rest:
            try:
                rest = rest[self.left.send(rest[: self.seed.randint(1, 8192)]) :]
            except BlockingIOError:
                await patiently(lambda: room)
            await self.idle()
        self.loop.forget(self.left.fileno())
        self.left.close()

    async def read(self) -> None:
        ready = self.loop.readable(self.right.fileno())
        while True:
            await patiently(lambda: ready)
            try:
                piece = self.right.recv(self.seed.randint(1, 8192))
            except BlockingIOError:
                continue
            if not piece:
                break
            self.received += piece
            await self.idle()
        self.loop.forget(self.right.fileno())
        self.right.close()


@HASTY
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(0, 100_000), min_size=2, max_size=6))
def test_no_byte_is_lost_whatever_is_thrown_at_readers_and_writers(
    new_poller: Callable[[], Poller], seed: int, sizes: list[int]
) -> None:
    chance = random.Random(seed)

    async def disturb(tasks: list[Task]) -> None:
        while living := [task for task in tasks if task in loop.tasks]:
            task = chance.choice(living)
            match chance.randint(0, 3):
                case 0:
                    task.throw(Jolt())
                case 1:
                    task.wake()
                case 2:
                    task.resume()
                case 3:
                    task.deadline = loop.now + chance.random() / 100
            await (PAUSE if chance.random() < 0.7 else loop.sleep(chance.random() / 1000))

    with ExitStack() as stack:
        loop = Loop(new_poller())
        stack.callback(loop.close)
        conversations = [Conversation(loop, stack, random.Random(chance.random()), size) for size in sizes]
        loop.spawn(disturb([task for one in conversations for task in one.tasks]), "disturbing")
        loop.run()
        assert [one.received for one in conversations] == [one.data for one in conversations]


@HASTY
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8))
def test_no_wake_up_is_lost_whatever_tasks_do_to_each_other(
    new_poller: Callable[[], Poller], seed: int, count: int
) -> None:
    chance = random.Random(seed)
    owed = [0] * count  # tokens that were handed to each task, and for which it has been woken
    taken = [0] * count

    async def consume(number: int, rounds: int) -> None:
        while taken[number] < rounds:
            while not owed[number]:
                await patiently(lambda: PARKED)
            owed[number] -= 1
            taken[number] += 1
            match chance.randint(0, 4):
                case 0:
                    await patiently(lambda: PAUSE)
                case 1:
                    await patiently(lambda: loop.sleep(chance.random() / 2000))
                case 2:
                    tasks[chance.randrange(count)].throw(Jolt())
                case 3:
                    tasks[chance.randrange(count)].wake()

    async def hand_out(rounds: list[int]) -> None:
        receivers = [number for number, times in enumerate(rounds) for _ in range(times)]
        chance.shuffle(receivers)
        for number in receivers:
            owed[number] += 1
            tasks[number].wake()
            if chance.random() < 0.3:
                await PAUSE

    loop = Loop(new_poller())
    rounds = [chance.randint(0, 20) for _ in range(count)]
    tasks = [loop.spawn(consume(number, rounds[number]), "consumer") for number in range(count)]
    loop.spawn(hand_out(rounds), "handing out")
    for _ in range(10_000):
        if not loop.tasks:
            break
        assert loop.ready or loop._sleeping, "a task is parked for ever"
        loop.turn()
    assert taken == rounds
    loop.close()
