"""A Quart application: streams, WebSockets, hooks and background tasks; `app` is it, held against ASGI's rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, request, session, websocket

from tests.e2e.asgi_validator import Validator

quart = Quart(__name__)
quart.secret_key = "secret"
app = Validator(quart)
told: list[str] = []


@quart.before_serving
async def before() -> None:
    told.append("before serving")


@quart.after_serving
async def after() -> None:
    with open("quart.log", "w") as log:
        print(*told, "after serving", sep="\n", file=log)


@quart.get("/complaints")
async def complaints() -> list[str]:
    return app.complaints


@quart.get("/told")
async def what_was_told() -> list[str]:
    return told


@quart.post("/echo")
async def echo() -> dict[str, Any]:
    form, files = await request.form, await request.files
    return {"form": form.to_dict(), "files": {name: len(file.read()) for name, file in files.items()}}


@quart.get("/visits")
async def visits() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@quart.get("/stream")
async def stream() -> Any:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(20):
            yield b"%d\n" % number
            await asyncio.sleep(0.001)

    return lines(), {"Content-Type": "text/plain"}


@quart.post("/count")
async def count() -> str:
    return str(sum([len(piece) async for piece in request.body]))


@quart.get("/background")
async def background() -> str:
    async def work() -> None:
        await asyncio.sleep(0.2)
        told.append("background done")

    quart.add_background_task(work)
    return "answered"


@quart.websocket("/ws")
async def ws() -> None:
    try:
        while True:
            await websocket.send(f"got {await websocket.receive()}")
    finally:
        told.append("ws over")


@quart.websocket("/denied")
async def denied() -> Any:
    return "not you", 401
