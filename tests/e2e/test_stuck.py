"""Loops that are blocked: the log says by which request and where, the worker is replaced, nothing waits for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, ROUTE, Clients, answer, begin, connect, open_gate, pids, states
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, is_alive, suspend

HASTY = "timeout = 0.4\ngraceful_timeout = 20\n[log]"

BLOCKING = """
import asyncio, os, time

def block():
    open("entered", "w").close()
    while not os.path.exists("gate"):
        time.sleep(0.005)

async def late():
    await asyncio.sleep(0)
    block()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/first":
        block()
    elif path == "/later":
        await asyncio.sleep(0.01)
        block()
    elif path == "/task":
        await asyncio.create_task(late())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

# What does not release the interpreter: a C function called by ctypes.PyDLL, on a pipe that nobody writes to.
GREEDY = f"""
import ctypes
{APP.replace("VERSION.encode()", "hold()").replace('environ["wsgi.input"].read()', "crash()")}
def hold():
    open("entered", "w").close()
    ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)

def crash():
    ctypes.string_at(0)
"""


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    asgi = CONFIG.replace("wsgi", "asgi").replace("[log]", HASTY) + 'lifespan = "off"\n'
    return serve_module(asgi, {"app.py": BLOCKING})


@pytest.fixture
def blocking(shared: Server) -> Iterator[Server]:
    """A server of one worker, whose ASGI application blocks its loop where it is asked to."""
    (shared.directory / "gate").unlink(missing_ok=True)
    yield shared
    open_gate(shared)
    eventually(lambda: states(shared) == ["serving"], what="the successor alone")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/first", r"in GET /first, which came \d+\.\d s ago"),
        ("/later", r"in GET /later, which came \d+\.\d s ago"),
        ("/task", "while these wait: GET /task"),
    ],
)
def test_a_blocked_loop_is_told_of_with_its_request_and_stack_and_replaced(
    blocking: Server, path: str, told: str
) -> None:
    (worker,) = pids(blocking)
    blocked = begin(blocking, path)
    blocking.wait_log(rf"error: worker {worker} is stuck: its loop has not turned for \d+\.\d s; replacing it")
    blocking.wait_log(rf"\[{worker}\] error: the loop is stuck {told}; its threads are at")
    blocking.wait_log(r'^    MainThread:\n(    .*\n)*    +File ".*app\.py", line \d+, in block')
    eventually(lambda: pids(blocking) > {worker}, what="a successor beside it")
    assert int(blocking.get().body) != worker
    open_gate(blocking)
    assert int(answer(blocked)) == worker  # it has had its time to finish
    blocked.close()
    eventually(lambda: worker not in pids(blocking), what="the end of the worker")
    assert "died" not in blocking.stderr


@pytest.fixture
def greedy(serve: Serve) -> Server:
    return serve(CONFIG.replace("[log]", "timeout = 0.4\ngraceful_timeout = 0.1\n[log]"), {"app.py": GREEDY})


def test_a_worker_whose_interpreter_is_held_is_dumped_and_ends_all_the_same(greedy: Server) -> None:
    (worker,) = pids(greedy)
    held = begin(greedy, "/version")
    greedy.wait_log(f"worker {worker} is stuck")
    greedy.wait_log(r'^(Current t|T)hread 0x.*\n(.*\n)*  File ".*app\.py", line \d+ in hold')
    eventually(lambda: worker not in pids(greedy), 10, what="the end of the worker")
    held.close()
    assert int(greedy.get().body) != worker


def test_a_crash_and_usr2_leave_the_stacks_in_the_log(greedy: Server) -> None:
    (worker,) = greedy.workers()
    worker.send_signal(signal.SIGUSR2)
    run = r'  File ".*prefork/process/worker/worker\.py", line \d+ in run'
    greedy.wait_log(rf"^Current thread 0x.*\n(  File .*\n)+{run}")
    assert int(greedy.get().body) == worker.pid
    assert greedy.raw(b"GET /body HTTP/1.0\r\n\r\n") == b""
    greedy.wait_log(r'^Fatal Python error: Segmentation fault\n(.*\n)*  File ".*app\.py", line \d+ in crash')
    greedy.wait_log(rf"worker {worker.pid} died: SIGSEGV")


def test_a_stopped_worker_harms_nobody_and_is_replaced_if_it_stays_so(serve: Serve) -> None:
    server = serve(PAIR.replace("[log]", "timeout = 0.4\ngraceful_timeout = 0.1\n[log]"), {"app.py": APP})
    stopped, other = server.workers()
    suspend(stopped)
    server.wait_log(rf"warning: worker {stopped.pid} is stopped: SIGSTOP")
    assert {server.get().body for _ in range(10)} == {str(other.pid).encode()}
    with Clients(server):
        server.wait_log(rf"error: worker {stopped.pid} has been stopped for \d+\.\d s; replacing it")
        eventually(lambda: not is_alive(stopped), 10, what="its end")
    eventually(lambda: states(server) == ["serving"] * 2)
    assert other.pid in pids(server)


def test_a_worker_that_is_stopped_for_a_moment_goes_on(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (worker,) = server.workers()
    suspend(worker)
    server.wait_log(rf"worker {worker.pid} is stopped")
    connection = connect(server)
    connection.request("GET", "/")
    worker.resume()
    server.wait_log(rf"worker {worker.pid} goes on")
    assert int(answer(connection)) == worker.pid
    connection.close()


def test_workers_whose_loop_is_blocked_outlive_a_killed_master_by_no_more_than_they_have_to_leave(serve: Serve) -> None:
    times = "graceful_timeout = 0.1\nshutdown_timeout = 0.1"
    config = f'[workers]\ncount = 1\n{times}\n[log]\naccess = ""\n{ROUTE.replace("wsgi", "asgi")}'
    server = serve(config + 'lifespan = "off"\n', {"app.py": BLOCKING})
    begin(server, "/first").close()
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), what="the end of the worker")


def test_an_import_that_hangs_does_not_outlive_a_killed_master(serve: Serve) -> None:
    source = "import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n"
    server = serve(PAIR, {"app.py": source}, wait=False)
    eventually((server.directory / "entered").exists, what="the application's import")
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    eventually(lambda: not server.family(), 2, what="the end of both workers")
