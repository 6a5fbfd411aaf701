"""Applications and configurations that end-to-end tests share, clients that talk to them, and what a server tells.

APP tells the test what it does, and hears when to go on, by files in the server's directory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import eventually
from tests.e2e.harness import Server

APP = '''
import os
import time

VERSION = "one"


def pause():
    """Say that we are here, and wait until the test opens the gate."""
    open("entered", "w").close()
    while not os.path.exists("gate"):
        time.sleep(0.005)


def pieces():
    yield b"first, "
    pause()
    yield b"last"


def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [])
    if path == "/stream":
        return pieces()
    if path == "/wait":
        pause()
        return [b"done"]
    if path == "/body":
        return [environ["wsgi.input"].read()]
    if path == "/version":
        return [VERSION.encode()]
    return [str(os.getpid()).encode()]
'''

NEW = APP.replace('"one"', '"two"')

ROUTE = '[[route]]\npath = "/"\nwsgi = "app:app"\n'
ALONE = '[workers]\ncount = 1\nprobation = 0.1\n[log]\naccess = ""\n'  # and no route yet
CONFIG = ALONE + ROUTE
PAIR = CONFIG.replace("count = 1", "count = 2")
# of whose large files none is held open, so that descriptors can be counted
SITE = CONFIG + '[[route]]\npath = "/files"\nfiles = "public"\n[file_cache]\nopen_files = 0\n'

# Answers with what it was asked, as JSON; /words, /pieces (8 of 64 KiB) and /big (10 MB) with bodies of their own.
ECHO = """
import hashlib
import json

PIECES = {
    "/words": [b"one ", b"two ", b"three"],
    "/pieces": [bytes([letter]) * 65536 for letter in b"abcdefgh"],
}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("404 Not Found" if path == "/none" else "200 OK", [("Content-Type", "application/json")])
    if path in PIECES:
        return iter(PIECES[path])
    if path == "/big":
        return [b"x" * 10_000_000]
    body = environ["wsgi.input"].read()
    answer = {
        "method": environ["REQUEST_METHOD"],
        "path": path,
        "query": environ["QUERY_STRING"],
        "protocol": environ["SERVER_PROTOCOL"],
        "client": f"{environ['REMOTE_ADDR']}:{environ['REMOTE_PORT']}",
        "type": environ.get("CONTENT_TYPE"),
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return [json.dumps(answer).encode()]
"""


def connect(server: Server) -> HTTPConnection:
    """A connection for several requests; the caller closes it."""
    return HTTPConnection("127.0.0.1", server.port, timeout=10)


def begin(server: Server, path: str) -> HTTPConnection:
    """Send a request for "/wait" or "/stream", and come back when the application is in the middle of it."""
    (server.directory / "entered").unlink(missing_ok=True)
    connection = connect(server)
    connection.request("GET", path)
    eventually((server.directory / "entered").exists, what=f"the application's word that it is in {path}")
    return connection


def open_gate(server: Server) -> None:
    """Let the application that waits go on."""
    (server.directory / "gate").touch()


def answer(connection: HTTPConnection) -> bytes:
    """The body of the response to the request that was sent."""
    return connection.getresponse().read()


def command(server: Server, name: str, **more: Any) -> dict[str, Any]:
    """What the master answers to a command through its control socket."""
    return server.ask(name, **more)


def status(server: Server) -> dict[str, Any]:
    return command(server, "status")


def states(server: Server) -> list[str]:
    """The states of all workers, in the order of their slots."""
    return [worker["state"] for worker in status(server)["workers"]]


def serving(server: Server) -> set[int]:
    """The pids of the workers that serve by now."""
    return {worker["pid"] for worker in status(server)["workers"] if worker["state"] == "serving"}


def pids(server: Server) -> set[int]:
    """The pids of the master's living children."""
    return {worker.pid for worker in server.workers()}


def wait_generation(server: Server, number: int, workers: int, within: float = 10.0) -> None:
    """Until generation `number` serves, with so many workers, and no other is left."""

    def there() -> bool:
        told = status(server)
        is_there = told["master"]["generation"] == number and {w["generation"] for w in told["workers"]} == {number}
        return is_there and [w["state"] for w in told["workers"]] == ["serving"] * workers

    eventually(there, within, what=lambda: f"generation {number}, alone\n{server.stderr}")


@contextmanager
def undisturbed(server: Server) -> Iterator[psutil.Process]:
    """Its one worker, which must still be there when the block ends, and the server have said nothing meanwhile, save
    of bodies that were too large, whose limit an operator may want to raise.
    """

    def said() -> list[str]:
        return [line for line in server.stderr.splitlines() if ": 413, a body of " not in line]

    (worker,) = server.workers()
    before = said()
    yield worker
    assert server.workers() == [worker]
    assert said() == before


class Clients:
    """Threads that ask for "/version", on connections kept alive and on new ones, as long as the block lasts.

    When it ends, every answer must have been "one".
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answers = 0
        self.failures: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(is_kept,)) for is_kept in (True, False, True, False)]

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert self.failures == []

    def ask(self, is_kept: bool) -> None:
        connection = connect(self.server)
        try:
            while not self.stopping.is_set():
                connection.request("GET", "/version")  # connects anew where the server has said that it closes
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"one")
                self.answers += 1
                if not is_kept:
                    connection.close()
        except Exception as error:
            self.failures.append(f"{error!r} on a {'kept' if is_kept else 'new'} connection")
        finally:
            connection.close()

    def wait_answers(self, count: int) -> None:
        """Until there are so many answers more, or a failure."""
        before = self.answers
        eventually(lambda: self.answers >= before + count or self.failures, 10, what=f"{count} answers")


def links(pid: int) -> list[str]:
    """What each descriptor of process `pid` leads to."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(entry))
    return found


def listeners(pid: int) -> set[str]:
    """The inodes of the TCP sockets of 127.0.0.1 on which process `pid` listens."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"} & set(links(pid))
