"""The end of a worker with ASGI applications: requests first, then lifespan.shutdown, and neither without bounds."""

from __future__ import annotations

import signal
import socket
from time import monotonic

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

CONFIG = """
[workers]
count = 1
graceful_timeout = 0.2
shutdown_timeout = 5
[[route]]
path = "/"
asgi = "app:app"
"""

APP = """
import asyncio, sys
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

pool = "open"

def say(what):
    print("story:", what, file=sys.stderr, flush=True)

@asynccontextmanager
async def lifespan(app):
    global pool
    yield
    say("shutting down")
    await asyncio.sleep(0.7)  # longer than there was ever time for
    pool = "closed"
    say("shut down")

async def rest(what):
    say(what + " begins")
    try:
        await asyncio.sleep(1000)
    finally:
        say(f"{what} ends, the pool is {pool}")

async def plain(request):
    await rest("plain")

async def events(request):
    async def generate():
        yield "data: one\\n\\n"
        await rest("events")
    return StreamingResponse(generate(), media_type="text/event-stream")

async def background(request):
    return Response(background=BackgroundTask(rest, "background"))

async def ws(websocket):
    await websocket.accept()
    say("ws begins")
    try:
        await websocket.receive_text()
    finally:
        say(f"ws ends, the pool is {pool}")

routes = [Route("/plain", plain), Route("/events", events), Route("/background", background), WebSocketRoute("/ws", ws)]
app = Starlette(routes=routes, lifespan=lifespan)
"""


def ask(server: Server, path: str) -> socket.socket:
    """A request under way, once its application says so."""
    connection = server.connect()
    connection.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
    server.wait_log(f"story: {path[1:]} begins")
    return connection


def stories(server: Server) -> list[str]:
    return [line.removeprefix("story: ") for line in server.stderr.splitlines() if line.startswith("story: ")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_ends_before_the_application_shuts_down(serve: Serve, number: signal.Signals) -> None:
    """TERM waits for graceful_timeout, INT for no request; both for lifespan.shutdown."""
    server = serve(CONFIG, {"app.py": APP})
    plain, events, background = (ask(server, path) for path in ("/plain", "/events", "/background"))
    with plain, events, background, connect(f"ws://127.0.0.1:{server.port}/ws") as ws:
        server.wait_log("story: ws begins")
        server.signal(number)
        assert read_all(plain).startswith(b"HTTP/1.1 503 ")
        cut = read_all(events)
        assert b"data: one" in cut
        assert not cut.endswith(b"0\r\n\r\n")
        assert read_all(background).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert server.wait_exit() == 0
    ends = [f"{what} ends, the pool is open" for what in ("background", "events", "plain", "ws")]
    assert sorted(stories(server)[-6:-2]) == ends
    assert stories(server)[-2:] == ["shutting down", "shut down"]
    why = "not done within 0.2 s" if number == signal.SIGTERM else "cut off by the stop"
    for path in ("/plain", "/events", "/background"):
        assert server.stderr.count(f"warning: {why}: GET {path}\n") == 1
    for noise in ("error:", "Traceback", "killing"):
        assert noise not in server.stderr


def test_shutdown_that_does_not_end_is_cut_after_its_timeout_and_named(serve: Serve) -> None:
    config = CONFIG.replace("shutdown_timeout = 5", "shutdown_timeout = 0.3")
    server = serve(config, {"app.py": APP.replace("asyncio.sleep(0.7)", "asyncio.sleep(1000)")})
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert server.stderr.count("has not shut down within 0.3 s (workers.shutdown_timeout), and is cancelled") == 1
    for noise in ("error:", "Traceback", "killing"):  # Starlette says lifespan.shutdown.failed, then raises
        assert noise not in server.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_that_holds_the_loop_up_has_its_time(serve: Serve, number: signal.Signals) -> None:
    """As `scheduler.shutdown()`, `thread.join()` and `producer.flush()` do."""
    blocking = APP.replace("await asyncio.sleep(0.7)", "time.sleep(1.5)")
    server = serve(CONFIG, {"app.py": f"import time\n{blocking}"})
    with ask(server, "/events"):
        server.signal(number)
        assert server.wait_exit() == 0
    assert stories(server)[-2:] == ["shutting down", "shut down"]
    assert "killing" not in server.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("call", ["run_in_threadpool(hold)", "asyncio.to_thread(hold)"])
def test_thread_of_a_request_that_is_cut_off_is_not_waited_for(serve: Serve, number: signal.Signals, call: str) -> None:
    """FastAPI calls every plain function in one. Exit functions run all the same."""
    imports = "import atexit, time\nfrom starlette.concurrency import run_in_threadpool\n"
    hold = "def hold():\n    say('plain begins')\n    time.sleep(1000)\n"
    in_thread = APP.replace('await rest("plain")', f"await {call}")
    server = serve(CONFIG, {"app.py": f'{imports}{in_thread}\n{hold}atexit.register(say, "exit")'})
    with ask(server, "/plain"):
        begun = monotonic()
        server.signal(number)
        assert server.wait_exit() == 0
    assert monotonic() - begun < 4  # shutdown_timeout is 5
    assert stories(server)[-3:] == ["shutting down", "shut down", "exit"]
    server.wait_log(r"warning: not waiting any longer for 1 thread: \S")
    assert "killing" not in server.stderr


def test_another_int_ends_at_once_whatever_the_application_is_at(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP.replace("asyncio.sleep(0.7)", "asyncio.sleep(1000)")})
    server.signal(signal.SIGINT)
    server.wait_log("story: shutting down")
    told = monotonic()
    server.signal(signal.SIGINT)
    assert server.wait_exit() == 0
    assert monotonic() - told < 1
    eventually(lambda: server.family() == [])


def test_int_ends_a_worker_whose_loop_is_held_up_at_once(serve: Serve) -> None:
    """It could not shut down, and is not waited for as long as one that can."""
    held_up = APP.replace('await rest("plain")', 'say("plain begins")\n    time.sleep(1000)')
    server = serve(CONFIG, {"app.py": f"import time\n{held_up}"})
    with ask(server, "/plain"):
        begun = monotonic()
        eventually(lambda: monotonic() - begun > 1.05)
        server.signal(signal.SIGINT)
        assert server.wait_exit(3) == 0
