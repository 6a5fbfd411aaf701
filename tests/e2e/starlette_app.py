"""A Starlette application that has a route for each thing Starlette can do; `app` is it, held against ASGI's rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from tests.e2e.asgi_validator import Validator

FILE = Path("big.bin")
told: list[str] = []
asked = asyncio.Event()  # made at import, before any loop runs


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    FILE.write_bytes(bytes(range(256)) * 4096)
    Path("static").mkdir(exist_ok=True)
    Path("static/style.css").write_text("p {}")
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        yield {"told": told}
        ticking.cancel()


async def tick() -> None:
    while True:
        await asyncio.sleep(0.01)
        if "tick" not in told:
            told.append("tick")


async def complaints(request: Request) -> Response:
    return JSONResponse(app.complaints)


async def what_was_told(request: Request) -> Response:
    return JSONResponse(request.state.told)


async def kinds(request: Request) -> Response:
    answers: dict[str, Response] = {
        "plain": PlainTextResponse("grüße"),
        "html": HTMLResponse("<p>ü"),
        "json": JSONResponse({"ü": [1, None]}, 201, {"X-Own": "1"}),
        "redirect": RedirectResponse("/kinds/plain?ü"),
        "empty": Response(status_code=204),
        "task": PlainTextResponse("first", background=BackgroundTask(told.append, "then")),
    }
    kind = request.path_params["kind"]
    if kind not in answers:
        raise HTTPException(410, "gone", {"X-Why": "gone"})
    return answers[kind]


async def file(request: Request) -> Response:
    return FileResponse(FILE, filename="big.bin")


async def body(request: Request) -> Response:
    how = request.path_params["how"]
    if how == "stream":
        pieces = [len(piece) async for piece in request.stream()]
        return JSONResponse(sum(pieces))
    if how == "body":
        return Response(await request.body())
    async with request.form() as form:
        return JSONResponse({key: value if isinstance(value, str) else value.size for key, value in form.items()})


async def mirror(request: Request) -> Response:
    return StreamingResponse(request.stream())


async def disconnected(request: Request) -> Response:
    asked.set()
    while not await request.is_disconnected():
        await asyncio.sleep(0.005)
    told.append("disconnected")
    return Response()


async def is_asked(request: Request) -> Response:
    await asked.wait()
    return Response()


async def session(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return JSONResponse(request.session["count"])


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    def delete(self, request: Request) -> Response:  # on a thread
        return PlainTextResponse("deleted")


class Upper(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x-own", b"1")])

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_text(data.upper())

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        told.append(f"upper {close_code}")


async def count(websocket: WebSocket) -> None:
    """Sends while it receives, in two tasks."""
    await websocket.accept()

    async def send() -> None:
        for number in range(100):
            await websocket.send_json(number, mode="binary")

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        assert await websocket.receive_text() == "stop"
    await websocket.close()


def host(request: Request) -> Response:
    return PlainTextResponse(f"{request.path_params['name']} {request.url.hostname}")


app = Validator(
    Starlette(
        routes=[
            Host("{name}.example.org", Router([Route("/", host)])),
            Route("/complaints", complaints),
            Route("/told", what_was_told),
            Route("/kinds/{kind}", kinds),
            Route("/file", file),
            Route("/body/{how}", body, methods=["POST"]),
            Route("/mirror", mirror, methods=["POST"]),
            Route("/disconnected", disconnected),
            Route("/asked", is_asked),
            Route("/session", session),
            Route("/endpoint", Endpoint),
            Mount("/static", StaticFiles(directory="static", check_dir=False)),
            WebSocketRoute("/upper", Upper),
            WebSocketRoute("/count", count),
        ],
        middleware=[Middleware(SessionMiddleware, secret_key="secret")],
        lifespan=lifespan,
    )
)
