"""Eager tasks, which take their first step before anybody else does; listeners, which come first in a turn; and how
long turns take."""

from __future__ import annotations

import socket

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.task import PAUSE, STARTED, Deposed, Handover
from tests.runtime.conftest import Pairs


class Steps(list[str]):
    """What has been done, in order."""

    async def take(self, *names: str) -> None:
        """These steps, each in a turn of its own."""
        for name in names:
            self.append(name)
            await PAUSE


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_an_eager_task_begins_behind_the_step_that_spawns_it_and_before_all_others(
    loop: Loop, pair: Pairs, steps: Steps
) -> None:
    async def read(name: str, left: socket.socket) -> None:
        await loop.readable(left.fileno())
        loop.spawn(steps.take(f"begun by {name}"), "eager", eager=True)
        steps.append(name)

    for name in ("one", "two"):
        left, right = pair()
        loop.spawn(read(name, left), name)
        right.send(b"x")
    loop.turn()
    loop.turn()
    first, second = ("one", "two") if steps[0] == "one" else ("two", "one")
    assert steps == [first, f"begun by {first}", second, f"begun by {second}"]
    loop.run()


def test_who_waits_for_eager_tasks_goes_on_behind_their_first_steps_in_the_same_turn(loop: Loop, steps: Steps) -> None:
    async def spawn() -> None:
        for name in "ab":
            loop.spawn(steps.take(name, f"{name} again"), name, eager=True)
            loop.spawn(steps.take(f"patient {name}"), name)
        await STARTED
        steps.append("spawned")

    loop.spawn(spawn(), "spawning")
    loop.turn()
    assert steps == ["a", "b", "spawned"]
    loop.run()
    assert steps[3:] == ["patient a", "patient b", "a again", "b again"]


def test_an_eager_task_begins_though_nobody_else_has_anything_to_do(loop: Loop, steps: Steps) -> None:
    loop.spawn(steps.take("a"), "a", eager=True)
    loop.run()
    assert steps == ["a"]


def test_an_eager_task_that_is_cancelled_before_it_begins_does_not(loop: Loop, steps: Steps) -> None:
    loop.spawn(steps.take("a"), "a", eager=True).cancel()
    loop.spawn(steps.take("b"), "b", eager=True)
    loop.run()
    assert steps == ["b"]


def test_who_is_cancelled_while_it_waits_for_eager_tasks_does_not_go_on(loop: Loop, steps: Steps) -> None:
    async def spawn() -> None:
        loop.spawn(cancel(), "cancelling", eager=True)
        await STARTED
        steps.append("spawned")

    async def cancel() -> None:
        task.cancel()

    task = loop.spawn(spawn(), "spawning")
    loop.run()
    assert steps == []


def test_eager_tasks_go_first_where_another_thread_goes_on_with_the_turn(loop: Loop, pair: Pairs, steps: Steps) -> None:
    async def lose() -> None:
        steps.append("lost")
        await Handover()

    async def spawn(left: socket.socket) -> None:
        await loop.readable(left.fileno())
        loop.spawn(lose(), "losing the loop", eager=True)
        loop.spawn(steps.take("next"), "next", eager=True)
        await STARTED
        steps.append("spawned")

    async def read(left: socket.socket) -> None:
        await loop.readable(left.fileno())
        steps.append("read")

    for task in (spawn, read):
        left, right = pair()
        loop.spawn(task(left), "reading")
        right.send(b"x")
    loop.turn()
    with pytest.raises(Deposed):
        loop.turn()
    if steps[0] == "read":  # it came first, as it may
        del steps[0]
        steps.append("read")
    loop.finish_turn()
    if "read" not in steps[3:]:
        loop.turn()
    assert [step for step in steps if step != "read"] == ["lost", "next", "spawned"]


def test_a_listener_comes_before_all_others_that_are_ready(loop: Loop, pair: Pairs, steps: Steps) -> None:
    """A new client has waited for the turn before; those who are answered again and again have not."""

    async def accept(listener: socket.socket) -> None:
        for _ in range(2):
            await loop.readable(listener.fileno(), exclusive=True)
            steps.append("client")
            listener.accept()[0].close()

    async def read(left: socket.socket, right: socket.socket) -> None:
        readable = loop.readable(left.fileno())
        for _ in range(3):
            await readable
            steps.append("other")
            right.send(left.recv(1))

    for _ in range(5):
        left, right = pair()
        loop.spawn(read(left, left), "other")
        right.send(b"xxx")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.spawn(accept(listener), "accepting")
        loop.turn()
        for _ in range(2):
            with socket.create_connection(listener.getsockname()):
                steps.clear()
                loop.turn()
                assert steps == ["client", *["other"] * 5]
        steps.clear()
        loop.turn()
        assert steps == ["other"] * 5
    loop.run()


def test_a_turn_lasts_as_long_as_all_its_steps_whoever_takes_them(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, steps: Steps
) -> None:
    now = 1000.0
    monkeypatch.setattr("prefork.runtime.loop.monotonic", lambda: now)

    async def work() -> None:
        nonlocal now
        now += 3.0
        await PAUSE

    async def lose() -> None:
        nonlocal now
        now += 2.0
        await Handover()

    loop.turn(0)
    for task in (work(), lose(), work()):
        loop.spawn(task, "working")
    turns = loop.turns
    with pytest.raises(Deposed):
        loop.turn()
    loop.finish_turn()
    now += 0.5  # what is done between two turns, as asyncio does it there
    loop.turn()
    assert (loop.turns - turns, loop.lasted) == (2, 8.5)


def test_a_turn_does_not_last_while_the_loop_waits(loop: Loop) -> None:
    async def rest() -> None:
        await loop.sleep(0.2)

    loop.spawn(rest(), "resting")
    loop.run()
    loop.turn(0)
    assert loop.lasted < 0.15
