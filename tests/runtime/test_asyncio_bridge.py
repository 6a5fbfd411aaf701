"""asyncio on our loop: all that applications use of it works over our loop, with each of its pollers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from prefork.runtime.asyncio_bridge import AsyncioBridge
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller

Live = Callable[[Coroutine[Any, Any, Any]], Any]
BOUND = 10.0  # seconds, for what takes a moment


@pytest.fixture(params=["select", "poll", "auto"])
def bridge(request: pytest.FixtureRequest) -> Iterator[AsyncioBridge]:
    loop = Loop(make_poller(request.param))
    bridge = AsyncioBridge(loop)
    yield bridge
    bridge.close(1.0)
    loop.close()


@pytest.fixture
def live(bridge: AsyncioBridge) -> Live:
    return lambda coroutine: bridge.run_until_complete(asyncio.wait_for(coroutine, BOUND))


def test_timers_are_kept_in_order(live: Live) -> None:
    async def nap(seconds: float) -> float:
        await asyncio.sleep(seconds)
        done.append(seconds)
        return seconds

    async def naps() -> None:
        await asyncio.gather(*map(nap, (0.03, 0.01, 0.02, 0.0)))

    done: list[float] = []
    live(naps())
    assert done == [0.0, 0.01, 0.02, 0.03]


def test_both_loops_have_their_turns(bridge: AsyncioBridge, live: Live) -> None:
    steps: list[str] = []

    async def ours() -> None:
        for _ in range(3):
            await bridge.loop.sleep(0.005)
            steps.append("ours")

    async def theirs() -> None:
        task = bridge.loop.spawn(ours(), "ours")
        while task in bridge.loop.tasks:
            await asyncio.sleep(0.001)
            steps.append("theirs")

    live(theirs())
    assert steps.count("ours") == 3
    assert steps.index("theirs") < len(steps) - 1 - steps[::-1].index("ours")


def test_start_takes_the_first_step_at_once(bridge: AsyncioBridge) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[Any] = []

    async def application() -> str:
        seen.append(asyncio.current_task())
        variable.set("inside")
        await asyncio.sleep(0)
        assert (asyncio.current_task(), variable.get()) == (seen[0], "inside")
        return "result"

    async def ours() -> None:
        task = bridge.start(application())
        assert seen == [task]
        assert variable.get() == "outside"
        assert asyncio.current_task() is None
        await bridge.join([task])
        seen.append(task.result())

    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    assert seen[1:] == ["result"]


def test_what_start_starts_may_be_done_when_it_returns(bridge: AsyncioBridge) -> None:
    async def application() -> int:
        return 42

    async def ours() -> None:
        task = bridge.start(application())
        assert task.done()
        results.append(task.result())

    results: list[int] = []
    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    assert results == [42]


def test_call_soon_threadsafe_wakes_the_loop(live: Live) -> None:
    async def wait() -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = asyncio.get_running_loop().call_soon_threadsafe
        threading.Timer(0.01, lambda: call(future.set_result, "from a thread")).start()
        return await future

    assert live(wait()) == "from a thread"


def test_threads_of_the_executor(live: Live) -> None:
    async def ask() -> tuple[int, int]:
        one = await asyncio.to_thread(threading.get_ident)
        return one, await asyncio.get_running_loop().run_in_executor(None, threading.get_ident)

    assert threading.get_ident() not in live(ask())


def test_streams(live: Live) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    async def talk() -> bytes:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x" * 1_000_000)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    assert live(talk()) == b"x" * 1_000_000


def test_readers_and_writers(live: Live) -> None:
    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            got = loop.create_future()
            loop.add_reader(left, lambda: got.set_result(left.recv(100)) or loop.remove_reader(left))
            loop.add_writer(right, lambda: right.send(b"hello") and loop.remove_writer(right))
            return await got

    assert live(talk()) == b"hello"


def test_subprocesses(live: Live) -> None:
    async def run() -> tuple[bytes, int | None]:
        code = "import sys; print(sys.stdin.read().upper()); sys.exit(3)"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
        output, _ = await process.communicate(b"hello")
        return output, process.returncode

    assert live(run()) == (b"HELLO\n", 3)


def test_signal_handlers_are_refused_as_asyncio_refuses_them_where_it_has_none(live: Live) -> None:
    async def add() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(NotImplementedError, match="signals are the server's"):
            loop.add_signal_handler(signal.SIGTERM, print)
        assert loop.remove_signal_handler(signal.SIGTERM) is False

    live(add())


def test_what_asyncio_reports_is_logged(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_soon(lambda: [][0])
        await asyncio.sleep(0.001)

    live(fail())
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("prefork", logging.ERROR)
    assert record.getMessage().startswith("asyncio: Exception in callback")
    assert record.exc_info


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_run_goes_on_after_a_task_that_would_exit(
    bridge: AsyncioBridge, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def exits() -> None:
        await asyncio.sleep(0)
        raise error("on purpose")

    async def ours() -> None:
        task = bridge.asyncio.create_task(exits())
        await bridge.join([task])
        assert isinstance(task.exception(), error)
        await bridge.loop.sleep(0.005)
        lived.append(True)

    lived: list[bool] = []
    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    assert lived == [True]
    assert "an application's asyncio task raised" in caplog.text


def test_run_returns_when_our_loop_is_stopped(bridge: AsyncioBridge) -> None:
    async def ours() -> None:
        bridge.asyncio.create_task(asyncio.sleep(3600))
        await bridge.loop.sleep(0.001)
        bridge.loop.stop()
        await bridge.loop.sleep(3600)

    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    assert bridge.loop.stopped


def test_close_cancels_what_is_left(bridge: AsyncioBridge) -> None:
    ends: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.001)
            ends.append("tidied up")

    async def ours() -> None:
        bridge.start(left())

    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    bridge.close(BOUND)
    assert ends == ["tidied up"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_close_goes_on_where_a_cancelled_task_would_exit(
    bridge: AsyncioBridge, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def exits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise error("on purpose")

    async def left() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.001)
            ends.append("tidied up")

    async def ours() -> None:
        tasks.extend(map(bridge.start, (exits(), left(), exits())))

    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    bridge.close(BOUND)
    assert ends == ["tidied up"]
    assert bridge.asyncio.is_closed()
    assert [type(task.exception()) for task in tasks if not task.cancelled()] == [error, error]
    assert caplog.text.count("an application's asyncio task raised") == 2


@pytest.mark.parametrize("stubborn", ["task", "generator"])
def test_close_waits_for_nobody_longer_than_its_patience(
    bridge: AsyncioBridge, stubborn: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []
    kept: list[AsyncGenerator[None, None]] = []

    async def generate(name: str) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            ends.append(name)
            if name == stubborn:
                await asyncio.sleep(BOUND)
                ends.append("had its way")

    async def left() -> None:
        for name in ("generator", "another generator"):
            kept.append(generate(name))
            await anext(kept[-1])
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("task")
            if stubborn == "task":
                await asyncio.sleep(BOUND)
                ends.append("had its way")

    async def ours() -> None:
        bridge.start(left())

    bridge.loop.spawn(ours(), "ours")
    bridge.run()
    bridge.close(0.05)
    assert sorted(ends) == ["another generator", "generator", "task"]
    assert bridge.asyncio.is_closed()
    kept.clear()
    gc.collect()  # asyncio says now, and not in the midst of another test, what it has destroyed
    assert "shutdown_asyncgens" not in caplog.text  # which is nobody's but ours
