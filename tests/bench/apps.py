"""The applications every server under comparison runs: one answer, as WSGI and as ASGI; the same after some waiting or
computing; and an echo. No server here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

BODY = b"Hello, world!\n"


def hello(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    """The WSGI application (PEP 3333)."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


def read(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
    """`hello`, once the request's body has been read, 64 KiB at a time."""
    while environ["wsgi.input"].read(65536):
        pass
    return hello(environ, start_response)


async def hello_asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """The same as ASGI 3; raising on the lifespan scope says that there is nothing to start."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def compute(seconds: float) -> None:
    """Hold the interpreter for so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def asked(path: str, query: str) -> tuple[str, float]:
    """What a path or its query tells to do, and for how many seconds: "/wait/5" and "/wait?5" are ("wait", 0.005)."""
    action, _, milliseconds = path[1:].partition("/")
    return action, float(milliseconds or query or 0) / 1000


def pieces(seconds: float) -> Iterator[bytes]:
    """A page in five pieces, with a wait before each."""
    for _ in range(5):
        time.sleep(seconds)
        yield BODY


def work(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> list[bytes] | Iterator[bytes]:
    """`hello`, at once for "/", after a sleep for "/wait/MS", after CPU time for "/compute/MS"; `pieces` for
    "/stream/MS". MS is in milliseconds, and may stand in the query instead; 0 does nothing.
    """
    action, seconds = asked(environ["PATH_INFO"], environ["QUERY_STRING"])
    if action == "stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return pieces(seconds)
    if seconds:
        (time.sleep if action == "wait" else compute)(seconds)
    return hello(environ, start_response)


async def work_asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """`hello_asgi` in the same way: it sleeps in the loop, and computes in a thread of the loop's executor."""
    if scope["type"] == "http":
        action, seconds = asked(scope["path"], scope["query_string"].decode())
        if seconds and action == "wait":
            await asyncio.sleep(seconds)
        elif seconds:
            await asyncio.to_thread(compute, seconds)
    await hello_asgi(scope, receive, send)


async def echo_asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """A WebSocket that says what it hears (ASGI 3)."""
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def computing(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """WSGI: computes for so many microseconds as the path says, and tells which process that was."""
    body = _compute(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def computing_asgi(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """The same as ASGI; "/stream" tells the process, too, and then stays until its client leaves."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    is_stream = scope["path"] == "/stream"
    body = b"%d" % os.getpid() if is_stream else _compute(scope["path"])
    headers = [(b"content-type", b"text/plain")] + [(b"content-length", b"%d" % len(body))] * (not is_stream)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": is_stream})
    while is_stream and (await receive())["type"] != "http.disconnect":
        pass


def _compute(path: str) -> bytes:
    """The pid, after so many microseconds of CPU time."""
    until = time.thread_time() + (float(path[1:]) / 1e6 if path[1:].isdecimal() else 0.0)
    while time.thread_time() < until:
        pass
    return b"%d" % os.getpid()
