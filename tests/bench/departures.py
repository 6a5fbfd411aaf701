"""Event streams leave one of two workers, and busy clients come: how many of them each worker has, and what they wait.

    python tests/bench/departures.py [--streams 100] [--busy 24] [--compute 6000] [--server NAME ...] [--rounds 3]

Each worker has so many event streams, in which nothing happens. The busy clients come first while all the streams are
there, then after those of one worker have left: at once, and one after another. Each asks again as soon as it is
answered, and its call computes. The worst share is the most that one worker has of them. Medians of the rounds, and the
worst share of all of them.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from compare import interleave
from crowd import REQUEST, Crowd, latencies, quantile, shares
from servers import Absent, Peer, Running, granian, gunicorn, prefork, running, uvicorn

COMPUTING = "apps:computing_asgi"
CONTENDERS = (
    Peer("prefork", "departures", "ASGI", prefork(f'path = "/"\nasgi = "{COMPUTING}"', workers=2)),
    Peer("gunicorn-asgi", "departures", "ASGI", gunicorn(COMPUTING, "-k", "asgi", "-w", "2")),
    Peer("uvicorn", "departures", "ASGI", uvicorn(COMPUTING, "--workers", "2")),
    Peer("granian", "departures", "ASGI", granian(COMPUTING, "--interface", "asgi", "--workers", "2")),
)
SETTLED = 1.5  # seconds after which a stream is an old one
RUN = 1.5  # seconds of busy clients


class Streams:
    """Open event streams, by the pid of the worker that has each."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self._port = port
        self._stack = stack
        self.of: dict[bytes, list[socket.socket]] = {}

    def open(self) -> None:
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._port), 10))
        client.sendall(REQUEST % b"/stream")
        data = b""
        while not (body := data.partition(b"\r\n\r\n")[2]):
            data += client.recv(65536)
        pid = max(body.split(b"\r\n"), key=len)  # between the sizes of its chunks, or all of it
        self.of.setdefault(pid, []).append(client)

    def leave(self, pid: bytes, count: int) -> None:
        """All but `count` of a worker's streams leave."""
        while len(self.of[pid]) > count:
            self.of[pid].pop().close()


def meet(port: int, options: argparse.Namespace, gap: float) -> tuple[int, float]:
    """Busy clients come, every `gap` seconds; the worst share, and their p99 in seconds once all are there."""
    crowd = Crowd(port, f"/{options.compute}")
    try:
        for _ in range(options.busy if gap else 1):
            crowd.join(1 if gap else options.busy, stay=True)
            crowd.run(gap)
        crowd.run(RUN / 3)
        crowd.forget()
        crowd.run(RUN)
        return max(shares(crowd.guests).values()), quantile(latencies(crowd.guests), 0.99)
    finally:
        crowd.close()


def measure(server: Running, options: argparse.Namespace) -> list[tuple[int, float]]:
    """Worst share and p99 before and after, at once and one after another. Raises Absent."""
    with ExitStack() as stack:
        streams = Streams(server.port, stack)
        opened = 0
        while len(streams.of) < 2 or min(map(len, streams.of.values())) < options.streams:
            streams.open()
            opened += 1
            if opened > 100 + 20 * options.streams:
                raise Absent("one worker has all the streams")
        for pid in streams.of:
            streams.leave(pid, options.streams)
        time.sleep(SETTLED)
        found = [meet(server.port, options, 0.0)]
        time.sleep(SETTLED)
        streams.leave(next(iter(streams.of)), 0)
        time.sleep(SETTLED)
        for gap in (0.0, 0.02):
            found.append(meet(server.port, options, gap))
            time.sleep(SETTLED)
        return found


def told(rows: list[list[tuple[int, float]]], case: int) -> str:
    worst = max(row[case][0] for row in rows)
    return f"worst share {worst:2}, p99 {median(row[case][1] for row in rows) * 1e3:6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100, help="of each worker")
    parser.add_argument("--busy", type=int, default=24)
    parser.add_argument("--compute", type=int, default=6000, help="microseconds of a call")
    parser.add_argument("--server", action="append", help="one of the contenders; may be given again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers")
    options = parser.parse_args()

    def measure_one(peer: Peer) -> list[tuple[int, float]]:
        try:
            with running(peer, options.peers, None) as server:
                return measure(server, options)
        except OSError as error:
            raise Absent(f"under load: {error}") from error

    chosen = [peer for peer in CONTENDERS if not options.server or peer.name in options.server]
    samples, absent = interleave(chosen, options.rounds, measure_one)
    print(f"{options.busy} busy clients, calls of {options.compute} us, {options.streams} streams a worker")
    for name, reason in absent.items():
        print(f"{name}: {reason}")
    for peer, measured in samples.items():
        before, after, slowly = (told(measured, case) for case in range(3))
        print(f"{peer.name:14} before: {before}; after: {after}; one after another: {slowly}")


if __name__ == "__main__":
    main()
