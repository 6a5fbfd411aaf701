"""How lifespans end: what an application says of its failure is told once, what the server does to it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from prefork.errors import LifespanError
from prefork.handlers.apps.asgi.application import Asgi
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller


def live(*applications: Any, patience: float = 5.0) -> None:
    """The lifespans of these, from beginning to end; 0.05 s go by meanwhile."""
    loop = Loop(make_poller())
    asgi = Asgi(loop)
    for application in applications:
        asgi.handler(application, "")

    async def end() -> None:
        await loop.sleep(0.05)
        await asgi.shut_down(patience)
        loop.stop()

    try:
        asgi.start_up()
        loop.spawn(end(), "ending")
        asgi.run()
    finally:
        asgi.close()
        loop.close()


def starlette(then: Any) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await then()

    return Starlette(lifespan=lifespan)


async def fail() -> None:
    raise ValueError("on purpose")


async def hang() -> None:
    await asyncio.sleep(1000)


def test_applications_shut_down_where_another_cannot_start() -> None:
    steps: list[str] = []

    async def note() -> None:
        await asyncio.sleep(0.01)
        steps.append("shut down")

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(LifespanError, match="no database"):
        live(starlette(note), fails, starlette(note))
    assert steps == ["shut down"]  # the third one has not been asked to start


def test_failure_to_shut_down_is_told_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    live(starlette(fail))
    (record,) = caplog.records
    assert record.getMessage() == "the application's lifespan failed to shut down: ValueError: on purpose"
    assert "in fail" in record.report  # type: ignore[attr-defined]


def test_failure_while_it_runs_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Starlette says lifespan.shutdown.failed though nobody has asked it to shut down."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            yield

    live(Starlette(lifespan=lifespan))
    (record,) = caplog.records
    assert record.getMessage().startswith("the application's lifespan failed: ")
    assert "on purpose" in record.report  # type: ignore[attr-defined]


def test_lifespan_that_hangs_costs_the_others_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def note() -> None:
        done.append("shut down")

    live(starlette(note), starlette(hang), patience=0.1)
    assert done == ["shut down"]
    assert [record.getMessage().partition(" within ")[0] for record in caplog.records] == [
        "an application's lifespan has not shut down"
    ]


@pytest.mark.parametrize("kind", ["complete", "failed"])
def test_word_that_comes_after_the_end_is_no_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        await send({"type": f"lifespan.shutdown.{kind}"})
        heard.append("no error")

    live(application)
    assert heard == ["no error"]


def test_failure_without_a_word_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed"})

    live(application)
    assert [record.getMessage() for record in caplog.records] == [
        "the application's lifespan failed to shut down: it does not say why"
    ]
