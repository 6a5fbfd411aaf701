"""What applications do with asyncio: each path of `app` is one such thing, and answers what came of it, as JSON."""

from __future__ import annotations

import asyncio
import contextvars
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.e2e.asgi_validator import Validator

LOOP = asyncio.get_event_loop()

with suppress(ImportError):
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # as applications do that were made for other servers

LOCK = asyncio.Lock()
QUEUE: asyncio.Queue[str] = asyncio.Queue()
later: list[str] = []
tasks: set[asyncio.Task[None]] = set()
who = contextvars.ContextVar("who", default="nobody")


async def same_loop() -> list[bool]:
    return [asyncio.get_running_loop() is LOOP, asyncio.get_event_loop() is LOOP]


async def lock() -> int:
    inside = most = 0

    async def enter() -> None:
        nonlocal inside, most
        async with LOCK:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(10)))
    return most


async def beyond() -> str:
    async def work() -> None:
        await asyncio.sleep(0.01)
        later.append("done")
        QUEUE.put_nowait("from a task of another request")

    task = asyncio.create_task(work())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return "answered"


async def queue() -> str:
    return await QUEUE.get()


async def timers() -> list[str]:
    order: list[str] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, lambda: (order.append("later"), done.set()))
    loop.call_later(0.01, order.append, "sooner")
    loop.call_later(0.005, order.append, "never").cancel()
    loop.call_soon(order.append, "soon")
    await done.wait()
    return order


async def timeout() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        return "timed out"
    return "not"


async def process() -> list[Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input()[::-1])", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, _ = await child.communicate(b"abc\n")
    failed = await asyncio.create_subprocess_shell("exit 7")
    return [out.decode(), child.returncode, await failed.wait()]


async def threads() -> list[Any]:
    who.set("the caller")
    seen = await asyncio.gather(*(asyncio.to_thread(lambda: (who.get(), threading.get_ident())) for _ in range(3)))
    back: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    threading.Thread(target=LOOP.call_soon_threadsafe, args=(back.set_result, "back")).start()
    return [{name for name, _ in seen} == {"the caller"}, threading.get_ident() in [i for _, i in seen], await back]


async def streams() -> list[Any]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
    lookup = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    return [got.decode(), bool(lookup)]


async def tls() -> list[Any]:
    """An HTTPS server and its client in one loop; the certificate is in the working directory."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n" + b"x" * 300_000)
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate.pem", "key.pem")
    trust = ssl.create_default_context(cafile="certificate.pem")
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(f"https://localhost:{port}/") for _ in range(3)))
    return [[answer.status_code, len(answer.content)] for answer in answers]


async def groups() -> list[str]:
    order: list[str] = []

    async def wait(name: str, seconds: float) -> None:
        try:
            await anyio.sleep(seconds)
            order.append(name)
        except BaseException:
            order.append(f"{name} cancelled")
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "first", 0)
        group.start_soon(wait, "second", 0.01)
        with anyio.move_on_after(0.02):
            await wait("third", 60)
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as other:
            other.create_task(wait("sibling", 60))
            await asyncio.sleep(0)
            raise ValueError
    order.append(await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(lambda: "from a thread")))
    return order


async def signals() -> str:
    try:
        asyncio.get_running_loop().add_signal_handler(10, print)
    except RuntimeError as error:
        return str(error)
    return "added"


async def files() -> str:
    return await anyio.Path(Path("certificate.pem")).read_text()


CALLS: dict[str, Callable[[], Awaitable[Any]]] = {
    f"/{call.__name__}": call
    for call in (
        same_loop,
        lock,
        beyond,
        queue,
        timers,
        timeout,
        process,
        threads,
        streams,
        tls,
        groups,
        signals,
        files,
    )
}


async def context(name: str) -> list[str]:
    before = who.get()
    who.set(name)
    await asyncio.sleep(0.02)
    return [before, who.get()]


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/context":
        result: Any = await context(scope["query_string"].decode())
    elif scope["path"] == "/complaints":
        result = app.complaints
    elif scope["path"] == "/later":
        result = later
    else:
        result = await CALLS[scope["path"]]()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(result).encode()})


app = Validator(application)
