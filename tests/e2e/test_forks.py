"""Processes that applications fork: they hold nothing of the server, never answer in its place, and end."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest
from websockets.sync.client import connect as connect_websocket

from tests.conftest import eventually
from tests.e2e.apps import connect, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, is_alive, read_all

APP = r"""
import atexit, multiprocessing, os, pty, signal, subprocess, sys, threading, time
from urllib.parse import parse_qsl

forked, terminals = [], []

def fork():
    pid = os.fork()
    forked.append(pid)
    return pid

def fork_with_terminal():
    pid, terminal = pty.fork()
    forked.append(pid)
    if pid:
        terminals.append(terminal)
    return pid

def hold(gate):
    while not os.path.exists(gate):
        time.sleep(0.005)

def note(name, text):
    with open(name + ".part", "w") as file:
        file.write(text)
    os.rename(name + ".part", name)

def inside():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)]
    descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return repr((
        [os.readlink(descriptor) for descriptor in descriptors if os.path.exists(descriptor)],
        handlers == [signal.SIG_DFL] * 4 and signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        open("/proc/self/cmdline").read().strip("\0"),
        os.getpid(),
    ))

def linger(gate):
    note("inside", inside())
    hold(gate)

def preexec():
    note("inside", inside())

class Dying:
    def __del__(self):
        fork()

class Closing:
    def __init__(self, how):
        self.how, self.left = how, [b"parent"]
    def __iter__(self):
        return self
    def __next__(self):
        if self.left:
            return self.left.pop()
        raise StopIteration
    def close(self):
        if not fork() and self.how == "close-raises":
            raise ValueError("in the child")

def ends(how, start_response, write):
    # in the child
    if how == "exit":
        sys.exit(7)
    if how == "words":
        sys.exit("these words")
    if how == "raises":
        raise ValueError("in the child")
    if how == "write":
        write(b"child")
    if how == "atexit":
        atexit.register(note, "at-exit", "done")
        print("printed by the child")
        sys.exit(3)
    return [b"child"]

def pieces(how):
    if how == "later":
        yield b"first,"
    if not fork():
        yield b"child"
        yield b"child"
    yield b"parent"

def finalizer():
    try:
        yield b"parent"
    finally:
        fork()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    how = query.get("how", "")
    if "nap" in query:
        time.sleep(0.03)
    write = start_response("200 OK", [])
    if path == "/fork":
        if how.startswith("close"):
            return Closing(how)
        if how in ("first", "later"):
            return pieces(how)
        if how == "finalizer":
            return finalizer()
        if how == "del":
            environ["dying"] = Dying()
            return [b"parent"]
        if not (fork_with_terminal if how == "pty" else fork)():
            return ends(how, start_response, write)
        return [b"parent"]
    if path == "/wait":
        while not forked:  # a close() may come behind the answer
            time.sleep(0.002)
        _, status = os.waitpid(forked.pop(), 0)
        while terminals:
            os.close(terminals.pop())
        return [str(os.waitstatus_to_exitcode(status)).encode()]
    if path == "/process":
        threading.Thread(target=time.sleep, args=[100], daemon=True).start()
        multiprocessing.get_context("fork").Process(target=linger, args=["gate"], daemon=True).start()
    if path == "/orphan":
        if not os.fork():
            os.setsid()
            linger("gate")
            os._exit(0)
    if path == "/preexec":
        return [subprocess.check_output(["ls", "-l", "/proc/self/fd"], preexec_fn=preexec, close_fds=False)]
    if path == "/executed":
        return [subprocess.check_output(["ls", "-l", "/proc/self/fd"], close_fds=False)]
    if path == "/hold":
        hold("gate")
    if path == "/body":
        return [str(len(environ["wsgi.input"].read())).encode()]
    return [str(os.getpid()).encode()]
"""
CONFIG = """
[workers]
count = 1
{more}
[log]
access = "access.log"
[[route]]
path = "/"
wsgi = "app:app"
"""
BESIDE_ASGI = """
[[route]]
path = "/asgi"
asgi = "other:app"
lifespan = "off"
"""
OTHER = "async def app(scope, receive, send): ...\n"


@pytest.fixture(scope="module")
def inline(serve_module: Serve) -> Server:
    return serve_module(CONFIG.format(more=""), {"app.py": APP})


@pytest.fixture(scope="module")
def pinned(serve_module: Serve) -> Server:
    return serve_module(CONFIG.format(more="") + BESIDE_ASGI, {"app.py": APP, "other.py": OTHER})


@pytest.fixture(params=["inline", "pinned"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of one worker, which is the same at the end, and has no child left."""
    shared: Server = request.getfixturevalue(request.param)
    (worker,) = shared.workers()
    yield shared
    assert shared.workers() == [worker]
    eventually(lambda: children(worker) == [], what="the end of what was forked")
    assert int(shared.get("/").body) == worker.pid


def children(worker: psutil.Process) -> list[psutil.Process]:
    """Those that live; nobody may have waited for the others."""
    return [child for child in worker.children() if is_alive(child)]


ENDS = [  # how the child ends, and its exit status
    ("exit", 7),
    ("words", 1),
    ("raises", 1),
    ("returns", 0),
    ("pty", 0),
    ("write", 1),
    ("first", 0),
    ("later", 0),
    ("finalizer", 0),
    ("close", 0),
    ("close-raises", 1),
]


@pytest.mark.parametrize("call", ["", "&nap"], ids=["in the loop's thread", "in a thread that has lost the loop"])
@pytest.mark.parametrize(("how", "code"), ENDS)
def test_whoever_is_forked_in_a_call_ends_as_a_process_does_and_its_parent_answers(
    server: Server, how: str, code: int, call: str
) -> None:
    said = len(server.stderr)
    with server.connect() as uploading:
        uploading.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nConnection: close\r\n\r\n1234")
        assert server.get(f"/fork?how={how}{call}").body == (b"first,parent" if how == "later" else b"parent")
        assert int(server.get("/wait").body) == code
        uploading.sendall(b"5678")
        assert re.search(rb"\n8(\r\n0\r\n\r\n)?\Z", read_all(uploading))  # in a chunk, perhaps
    told = server.stderr[said:]
    assert ("failed: ValueError('in the child')" in told) == ("raises" in how)
    assert ("returned to the server" in told) == (code == 0)
    assert "Traceback" not in told or code == 1
    if how == "words":
        assert "these words\n" in told


def test_a_child_that_comes_back_in_the_midst_of_the_server_itself_answers_nobody(inline: Server) -> None:
    """The application's object is dropped, and its finalizer called, when the call is over."""
    with inline.connect() as client:
        client.sendall(b"GET /fork?how=del HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(65536).count(b"HTTP/1.1") == 1
        client.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(client).endswith(b"\r\n\r\n0")
    eventually(lambda: status(inline)["workers"][0]["connections"] == 0, what="the count of no connection")
    assert int(inline.get("/").body) == inline.workers()[0].pid


def requests_recorded(server: Server, path: str) -> int:
    return (server.directory / "access.log").read_text().count(f'"GET {path} ')


def test_an_ending_child_runs_its_exit_functions_and_repeats_nothing_of_the_server(server: Server) -> None:
    (server.directory / "at-exit").unlink(missing_ok=True)
    printed, path = server.stdout.count("printed by the child"), "/fork?how=atexit"
    with server.connect() as client:  # a pipeline: the first request is recorded as the second is answered
        client.sendall(f"GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET {path} HTTP/1.0\r\n\r\n".encode())
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 2
    assert int(server.get("/wait").body) == 3
    assert (server.directory / "at-exit").read_text() == "done"
    assert server.stdout.count("printed by the child") == printed + 1
    assert server.get("/last").status == 200
    eventually(lambda: requests_recorded(server, "/last"))
    assert requests_recorded(server, path) == 1


@pytest.fixture
def gate(server: Server) -> Iterator[str]:
    """The name of a file for which children wait; it is there when the test ends."""
    for name in ("gate", "inside"):
        (server.directory / name).unlink(missing_ok=True)
    yield "gate"
    (server.directory / "gate").touch()


def inside(server: Server) -> tuple[list[str], bool, list[int], str, int]:
    """What a child has found in itself: its descriptors, whether its signals are the defaults, those it blocks, its
    title, its pid.
    """
    eventually((server.directory / "inside").exists, what="what the child has found")
    found = eval((server.directory / "inside").read_text())
    assert isinstance(found, tuple)
    return found


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("path", ["/process", "/orphan", "/preexec"])
def test_a_child_has_nothing_of_the_server_but_its_logs_and_the_signals_of_any_process(
    server: Server, path: str
) -> None:
    with server.connect() as idle, server.connect() as uploading:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle.recv(65536)
        uploading.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n1234")
        server.get(path)
    descriptors, defaults, blocked, title, pid = inside(server)
    mine = [link for link in descriptors if link != f"/proc/{pid}/fd"]
    allowed = {"/dev/null", *(str(server.directory / name) for name in ("stdout.log", "stderr.log", "access.log"))}
    foreign = [link for link in mine if link not in allowed]
    assert [link for link in foreign if not link.startswith("pipe:")] == []
    assert len(foreign) <= 6  # multiprocessing's and subprocess's own
    assert defaults
    assert blocked == []
    if path != "/preexec":
        assert title == "prefork: forked by worker 1"


@pytest.mark.parametrize("path", ["/executed", "/preexec"])
def test_a_program_that_is_executed_inherits_nothing(server: Server, path: str) -> None:
    listed = server.get(path).body.decode()
    targets = re.findall(r" -> (.*)", listed)
    allowed = {"/dev/null", *(str(server.directory / name) for name in ("stdout.log", "stderr.log"))}
    others = [target for target in targets if target not in allowed and not re.match(r"/proc/\d+/fd", target)]
    assert len(others) == 1  # its output
    assert others[0].startswith("pipe:")


@pytest.mark.usefixtures("gate")
def test_a_living_child_delays_no_connections_end(server: Server) -> None:
    kept = connect(server)
    kept.request("GET", "/")
    kept.getresponse().read()
    assert read_all_of(server, b"GET /process HTTP/1.0\r\n\r\n")
    assert [child for worker in server.workers() for child in children(worker)]
    kept.request("GET", "/", headers={"Connection": "close"})
    assert kept.getresponse().read()
    assert kept.sock is None or kept.sock.recv(1) == b""
    kept.close()


def read_all_of(server: Server, request: bytes) -> bytes:
    with server.connect(timeout=5) as client:
        client.sendall(request)
        return read_all(client)


def test_orphans_hold_no_port_when_the_server_has_stopped(serve: Serve) -> None:
    server = serve(CONFIG.format(more=""), {"app.py": APP})
    server.get("/orphan")
    orphan = psutil.Process(inside(server)[4])
    try:
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert is_alive(orphan)
        with socket.socket() as next_one:
            next_one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            next_one.bind(("127.0.0.1", server.port))
            next_one.listen()
    finally:
        (server.directory / "gate").touch()
        orphan.wait(5)


ASGI = r"""
import asyncio, os, sys, threading
from starlette.concurrency import run_in_threadpool

forked = []

def fork():
    pid = os.fork()
    forked.append(pid)
    return pid

def ends(how):
    if how.startswith("exit"):
        sys.exit(7)
    if how.startswith("raises"):
        raise ValueError("in the child")
    return b"child"

def in_thread(how):
    return b"parent" if fork() else ends(how)

async def in_task(how):
    await asyncio.sleep(0)
    if fork():
        return b"parent"
    if how == "awaits-task":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return ends(how)

async def tick():
    while True:
        with open("ticks", "a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(0)

async def answer(how):
    if how == "tick":
        global ticking
        ticking = asyncio.create_task(tick())
        return b"ticking"
    if how == "untick":
        ticking.cancel()
        return b"silent"
    if how.endswith("-late"):
        await asyncio.sleep(0.001)
    if how.endswith("-task"):
        return await asyncio.create_task(in_task(how))
    if how.endswith("-anyio"):
        return await run_in_threadpool(in_thread, how)
    if how.endswith("-thread"):
        return await asyncio.to_thread(in_thread, how)
    future = asyncio.get_running_loop().create_future()
    if fork():
        return b"parent"
    if how.startswith("awaits"):
        await future
    if how.startswith("new-loop"):
        sys.exit(asyncio.run(asyncio.sleep(0, 9)))
    return ends(how)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.environ.get("FORKS") and not fork():
            return ends("returns")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        fork()
        await send({"type": "websocket.send", "text": "parent"})
        return await send({"type": "websocket.close"})
    path = scope["path"]
    if path == "/wait":
        body = str(os.waitstatus_to_exitcode(os.waitpid(forked.pop(), 0)[1])).encode()
    elif path == "/":
        body = str(os.getpid()).encode()
    else:
        body = await answer(path[1:])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
WHERE = ["", "-late", "-task", "-thread", "-anyio"]
ASGI_CONFIG = CONFIG.replace("wsgi", "asgi")


@pytest.fixture(scope="module")
def shared_asgi(serve_module: Serve) -> Server:
    return serve_module(ASGI_CONFIG.format(more='env = { FORKS = "1" }'), {"app.py": ASGI})


@pytest.fixture
def asgi(shared_asgi: Server) -> Iterator[Server]:
    (worker,) = shared_asgi.workers()
    yield shared_asgi
    assert shared_asgi.workers() == [worker]
    assert int(shared_asgi.get("/").body) == worker.pid
    eventually(lambda: children(worker) == [], what="the end of what was forked")


def test_a_child_of_a_lifespan_ends_there(asgi: Server) -> None:
    asgi.wait_log("returned to the server")
    assert int(asgi.get("/wait").body) == 0


@pytest.mark.parametrize(
    ("how", "where", "code"),
    [
        *((how, where, code) for how, code in ENDS[:4] if how != "words" for where in WHERE),
        *(("awaits", where, 0) for where in WHERE[:3]),
    ],
)
def test_whoever_is_forked_under_asgi_never_takes_another_step_of_the_loop(
    asgi: Server, how: str, where: str, code: int
) -> None:
    said = len(asgi.stderr)
    (worker,) = asgi.workers()
    assert asgi.get("/tick").body == b"ticking"
    assert asgi.get(f"/{how}{where}").body == b"parent"
    assert int(asgi.get("/wait").body) == code
    assert asgi.get("/untick").body == b"silent"
    told = asgi.stderr[said:]
    assert ("failed: ValueError('in the child')" in told) == (how == "raises")
    assert ("returned to the server" in told) == (code == 0)
    assert set((asgi.directory / "ticks").read_text().split()) == {str(worker.pid)}


def test_a_child_may_run_an_event_loop_of_its_own(asgi: Server) -> None:
    assert asgi.get("/new-loop").body == b"parent"
    assert int(asgi.get("/wait").body) == 9


def test_a_child_of_a_websocket_sends_nothing(asgi: Server) -> None:
    with connect_websocket(f"ws://127.0.0.1:{asgi.port}/") as websocket:
        assert list(websocket) == ["parent"]
    assert int(asgi.get("/wait").body) == 0


IMPORTING = """
import os, sys
pid = os.fork()
if not pid and sys.argv and os.path.exists("exits"):
    sys.exit(3)

def app(environ, start_response):
    start_response("200 OK", [])
    return [str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode()]
"""


@pytest.mark.parametrize("preload", ["false", "true"])
def test_a_child_of_the_import_becomes_no_second_worker(serve: Serve, preload: str) -> None:
    waiting = IMPORTING.replace("os.waitpid(pid, 0)", "(0, 0)") if preload == "true" else IMPORTING
    server = serve(CONFIG.format(more=f"preload = {preload}"), {"app.py": waiting})
    server.wait_log("returned to the server")
    assert server.get("/").body == b"0"
    eventually(lambda: [child for worker in server.workers() for child in children(worker)] == [])
    assert len(server.family()) == 2 + (preload == "true")
