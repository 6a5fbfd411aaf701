"""A FastAPI application that uses what FastAPI has, each part once; `told` is what it remembers of its own doings.

`app` is the whole, held against the specification at its border: GET /complaints is what was found there.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Form,
    HTTPException,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from tests.e2e.asgi_validator import Validator

told: list[str] = []
gates: dict[str, asyncio.Event] = {}
barrier = threading.Barrier(2)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    app.state.since = "start"
    yield {"pool": ["a pool"]}
    with open("shutdown.log", "a") as log:
        print("shut down", file=log)


api = FastAPI(lifespan=lifespan, title="Everything")
app = Validator(api)


class Marking(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-middleware"] = request.url.path
        return response


api.add_middleware(GZipMiddleware, minimum_size=1000)
api.add_middleware(CORSMiddleware, allow_origins=["https://example.com"], allow_methods=["PUT"])
api.add_middleware(Marking)  # the outermost: all others find what the endpoints send


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)
    tags: list[str] = []


class OutOfStock(Exception):
    pass


@api.exception_handler(OutOfStock)
async def out_of_stock(request: Request, error: OutOfStock) -> Response:
    return JSONResponse({"sold": str(error)}, 418)


@api.get("/complaints")
def complaints() -> list[str]:
    return app.complaints


@api.get("/told")
async def what_was_told() -> list[str]:
    return told


@api.get("/open/{gate}")
async def open_gate(gate: str) -> None:
    gates.setdefault(gate, asyncio.Event()).set()


# ---- requests and answers


@api.put("/items/{number}")
async def put_item(number: int, item: Item, q: Annotated[str | None, Body()] = None) -> dict[str, Any]:
    return {"number": number, "q": q, **item.model_dump()}


async def outer() -> AsyncIterator[str]:
    try:
        yield "outer"
    except ValueError as error:
        told.append(f"outer saw {error}")
        raise
    finally:
        told.append("outer closed")


def inner(outer: Annotated[str, Depends(outer)]) -> Iterator[str]:  # on a thread
    try:
        yield f"{outer} inner"
    finally:
        told.append("inner closed")


@api.get("/depends")
async def depends(value: Annotated[str, Depends(inner)], wrong: bool = False) -> str:
    told.append("called")
    if wrong:
        raise ValueError("on purpose")
    return value


@api.get("/background/{gate}")
async def background(gate: str, tasks: BackgroundTasks) -> str:
    async def wait() -> None:
        told.append("async task")
        await asyncio.wait_for(gates.setdefault(gate, asyncio.Event()).wait(), 10)
        told.append("async task done")

    tasks.add_task(wait)
    tasks.add_task(told.append, "sync task")
    return "answered"


@api.get("/late")
async def late(tasks: BackgroundTasks) -> str:
    def work() -> None:
        time.sleep(0.5)
        Path("shutdown.log").write_text("late work\n")

    tasks.add_task(work)
    return "answered"


@api.post("/uploads")
async def uploads(files: list[UploadFile], note: Annotated[str, Form()]) -> dict[str, Any]:
    digests = {file.filename: hashlib.sha256(await file.read()).hexdigest() for file in files}
    return {"note": note, "digests": digests}


@api.post("/form")
async def form(name: Annotated[str, Form()], age: Annotated[int, Form()]) -> dict[str, Any]:
    return {"name": name, "age": age}


@api.get("/cookies")
async def cookies(response: Response, seen: Annotated[int, Cookie()] = 0) -> int:
    response.set_cookie("seen", str(seen + 1), httponly=True)
    response.set_cookie("other", "x", path="/elsewhere")
    return seen


@api.get("/state")
async def state(request: Request) -> dict[str, Any]:
    seen = {"app": request.app.state.since, "request": request.state.pool, "fresh": not hasattr(request.state, "mine")}
    request.state.mine = True
    return seen


@api.api_route("/any", methods=["GET", "HEAD", "OPTIONS", "DELETE"])
async def any_method(request: Request) -> str:
    return request.method


@api.get("/errors/{kind}")
async def errors(kind: str) -> None:
    if kind == "http":
        raise HTTPException(409, {"why": "taken"}, {"X-Why": "taken"})
    if kind == "own":
        raise OutOfStock("tea")
    raise RuntimeError("on purpose")


@api.get("/sync")
def sync() -> bool:
    """Comes back only once two of these calls are under way."""
    barrier.wait(10)
    return threading.current_thread() is not threading.main_thread()


@api.get("/long")
async def long() -> str:
    return "long " * 10_000


@api.get("/url")
async def url(request: Request) -> dict[str, Any]:
    return {"url": str(request.url), "root_path": request.scope["root_path"], "base": str(request.base_url)}


nested = FastAPI()


@nested.get("/url")
async def nested_url(request: Request) -> dict[str, Any]:
    return await url(request)


api.mount("/nested", nested)

# ---- streams


@api.get("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d\n" % number

    return StreamingResponse(lines(), media_type="text/plain")


@api.get("/threaded")
def threaded() -> StreamingResponse:
    return StreamingResponse((f"{number}\n" for number in range(50)), media_type="text/plain")


@api.get("/events/{gate}")
async def events(gate: str, count: int = 3, pause: float = 0) -> StreamingResponse:
    """So many events, one each time the gate is opened, or, with a pause, by themselves."""

    async def each() -> AsyncIterator[str]:
        opened = gates.setdefault(gate, asyncio.Event())
        try:
            for number in range(count):
                if pause:
                    await asyncio.sleep(pause)
                else:
                    await opened.wait()
                    opened.clear()
                yield f"id: {number}\ndata: event {number}\n\n"
        finally:
            told.append(f"{gate} closed")
            Path(f"{gate}.closed").touch()

    return StreamingResponse(each(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@api.post("/events/{gate}")
async def asked_events(gate: str, question: dict[str, str]) -> StreamingResponse:
    return await events(gate, int(question["count"]))


# ---- WebSockets


@api.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message["reason"])
            await websocket.send(message | {"type": "websocket.send"})
    except WebSocketDisconnect as gone:
        told.append(f"echo left: {gone.code} {gone.reason}")


@api.websocket("/json/{room}")
async def json(websocket: WebSocket, room: str, token: str = "none") -> None:
    await websocket.accept(subprotocol="v2" if "v2" in websocket.scope["subprotocols"] else None)
    async for message in websocket.iter_json():
        await websocket.send_json({"room": room, "token": token, "got": message})
        if message == "enough":
            await websocket.close(4001, "enough")


@api.websocket("/denied")
async def denied(websocket: WebSocket, how: str = "close") -> None:
    if how == "close":
        await websocket.close()
    elif how == "response":
        await websocket.send_denial_response(JSONResponse({"why": "no token"}, 401, {"X-Why": "token"}))
    else:
        raise HTTPException(404)


@api.get("/wait/{gate}")
async def wait(gate: str) -> None:
    await gates.setdefault(gate, asyncio.Event()).wait()


PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><p id="result">loading</p>
<img src="/wait/page" alt="what delays the page's load event until there is a result">
<script>
const wanted = [...Array(20).keys()].map(n => n % 2 ? `text ${n}` : new Uint8Array([n, 0, 255]))
const same = (a, b) => typeof a == "string" ? a === b : String(a) == String(new Uint8Array(b))
const echoed = new Promise((done, failed) => {
  const socket = new WebSocket(`ws://${location.host}/echo`)
  socket.binaryType = "arraybuffer"
  let count = 0
  socket.onopen = () => socket.send(wanted[0])
  socket.onmessage = ({data}) => {
    if (!same(wanted[count], data)) failed(`message ${count} differs`)
    if (++count < wanted.length) socket.send(wanted[count])
    else socket.close(3001, "done")
  }
  socket.onclose = event => done(`${count} echoes, closed ${event.code} ${event.wasClean}`)
})
const heard = new Promise((done, failed) => {
  const source = new EventSource("/events/chromium?count=5&pause=0.01"), ids = []
  source.onmessage = event => {
    ids.push(event.lastEventId)
    if (ids.length == 5) { source.close(); done(`events ${ids}`) }
  }
})
Promise.all([echoed, heard]).then(both => both.join("; "), error => error).then(text => {
  document.getElementById("result").textContent = text
  fetch("/open/page")
})
</script>"""


@api.get("/page", response_class=HTMLResponse)
async def page() -> str:
    return PAGE
