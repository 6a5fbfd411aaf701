"""Load that misses nothing: clients of both kinds, each in a process of its own, which judge every answer.

One kind keeps its connections, the other makes a new one for each request. A request fails where its connection cannot
be made, breaks off, or answers anything but 200; on a kept connection that the server closes just as the next request
goes out, without having said `Connection: close` before, that is a race, and the request is asked once more.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

TIMEOUT = 10.0  # seconds for a connection or an answer
PAUSE = 0.002  # seconds between two requests of a client: the servers are not to be measured at their limits


@dataclass
class Tally:
    """What became of the requests. `answers`: when each came (monotonic), its latency in seconds, and who answered."""

    answers: list[tuple[float, float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    races: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        self.answers += other.answers
        self.failed += other.failed
        self.races += other.races
        return self


class Load:
    """`clients` of each kind at 127.0.0.1:`port` for as long as the block lasts; then `tally` is what they met."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.tally = Tally()
        self._port = port
        self._clients = clients
        self._processes: list[tuple[multiprocessing.Process, Connection]] = []

    def __enter__(self) -> Load:
        fork = multiprocessing.get_context("fork")
        for kept in (True, False):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=_drive, args=(self._port, self._clients, kept, theirs), daemon=True)
            process.start()
            self._processes.append((process, ours))  # type: ignore[arg-type]
        return self

    def __exit__(self, *exception: object) -> None:
        for _, pipe in self._processes:
            pipe.send("stop")
        for process, pipe in self._processes:
            self.tally += pipe.recv()
            process.join()


def _drive(port: int, clients: int, kept: bool, control: Connection) -> None:
    """A process of clients, until the other end says stop; sends its Tally."""
    stopping = threading.Event()
    tallies = [Tally() for _ in range(clients)]
    threads = [threading.Thread(target=_ask, args=(port, kept, tally, stopping)) for tally in tallies]
    for thread in threads:
        thread.start()
    control.recv()
    stopping.set()
    whole = Tally()
    for thread, tally in zip(threads, tallies, strict=True):
        thread.join()
        whole += tally
    control.send(whole)


def _ask(port: int, kept: bool, tally: Tally, stopping: threading.Event) -> None:
    request = b"GET / HTTP/1.1\r\nHost: bench\r\n" + (b"" if kept else b"Connection: close\r\n") + b"\r\n"
    connection: socket.socket | None = None
    while not stopping.is_set():
        began = time.monotonic()
        reused = connection is not None
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            connection.sendall(request)
            head, body = read_answer(connection)
        except OSError as error:
            if connection is not None:
                connection.close()
                connection = None
            if reused and isinstance(error, (ConnectionError, BrokenPipeError)):
                tally.races += 1
            else:
                tally.failed.append(f"{time.monotonic():.3f} {'kept' if kept else 'new'}: {error!r}")
                time.sleep(0.01)  # nobody is there: not a thousand failures a second
            continue
        now = time.monotonic()
        if head.startswith(b"HTTP/1.1 200 "):
            tally.answers.append((now, now - began, body.decode(errors="replace").strip()))
        else:
            tally.failed.append(f"{now:.3f} {head.splitlines()[0]!r}")
        if not kept or b"connection: close" in head.lower() or select.select([connection], [], [], PAUSE)[0]:
            connection.close()
            connection = None
        if not kept:
            time.sleep(PAUSE)
    if connection is not None:
        connection.close()


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """A response with a Content-Length: its head and its body. Raises OSError where it is cut short."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += _more(connection)
    return head, body


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionResetError("closed before the answer was whole")
    return piece
