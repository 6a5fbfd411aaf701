"""Applications that make asyncio run within a step of one of its tasks, as nest_asyncio does for them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Serve

CONFIG = """
workers.count = 1
[[route]]
path = "/"
asgi = "app:app"
"""

APP = """
import asyncio
from heapq import heappop

def run_nested(coroutine):
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine)
    while not task.done():
        run_once(loop)
    return task.result()

def run_once(loop):  # as asyncio's own, but that a task may be under way
    ready, scheduled = loop._ready, loop._scheduled
    timeout = 0 if ready or loop._stopping else max(0, scheduled[0].when() - loop.time()) if scheduled else None
    loop._process_events(loop._selector.select(timeout))
    while scheduled and scheduled[0].when() <= loop.time():
        ready.append(heappop(scheduled))
    for _ in range(len(ready)):
        if not ready:
            break
        handle, current = ready.popleft(), asyncio.current_task(loop)
        if current is not None:
            asyncio.tasks._leave_task(loop, current)
        try:
            if not handle.cancelled():
                handle._run()
        finally:
            if current is not None:
                asyncio.tasks._enter_task(loop, current)

asyncio.BaseEventLoop._run_once = run_once  # or the outer one misses what the inner one has done

async def nap():
    await asyncio.sleep(0.05)
    return b"rested"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = b"plain"
    if scope["path"] == "/later":
        await asyncio.sleep(0)
    if scope["path"] != "/plain":
        body = run_nested(nap())
    if scope["path"] == "/before":
        await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("path", ["/first", "/before", "/later"])
def test_requests_that_come_while_an_application_runs_asyncio_within_a_step_are_answered(
    serve: Serve, path: str
) -> None:
    """In its first step, there before it waits, or in a later one."""
    server = serve(CONFIG, {"app.py": APP})
    paths = [path, "/plain"] * 8
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = [*pool.map(server.get, paths)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"rested"), (200, b"plain")] * 8
    assert "error:" not in server.stderr
