"""A running server under the generator's load: its saturation, its latencies; and what the benches of it share."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from compare import interleave, two_cores, versions
from generator import Kind, Result, closed_loop, open_loop, percentile
from servers import Absent, Peer, Running, running

T = TypeVar("T")

POOL = 128  # connections of an open loop
BUSIEST = 0.9  # of the generator's core: beyond it, the generator is what is measured
LATEST = 0.001  # seconds, p99: likewise


@dataclass(frozen=True)
class Saturation:
    """A server that is asked as much as it can answer."""

    rate: float  # requests per second
    cpu: float  # microseconds per request, of the server's whole process tree


Latencies = dict[str, tuple[float, float]]  # seconds of p50 and p99, by kind of request


def checked(result: Result) -> Result:
    """The result, where every request was answered by 200. Raises Absent; warns of the generator's own part."""
    if result.failed or result.unanswered:
        first = f", the first: {result.failed[0]}" if result.failed else ""
        raise Absent(f"{len(result.failed)} requests failed, {result.unanswered} had no answer{first}")
    late = percentile(result.late, 99)
    if result.busy > BUSIEST or late > LATEST:
        print(f"the generator was {result.busy:.0%} busy, and up to {late * 1e3:.1f} ms late (p99)", file=sys.stderr)
    return result


def saturate(kinds: Sequence[Kind], connections: int, seconds: float, server: Running) -> Saturation:
    """Ask on so many connections, each again at once. Raises Absent."""
    before = sum(server.cpu().values())
    try:
        result = checked(closed_loop(server.port, kinds, connections, seconds))
    except OSError as error:
        raise Absent(f"under load: {error}") from error
    return Saturation(result.rate, (sum(server.cpu().values()) - before) / result.answers * 1e6)


def flow(kinds: Sequence[Kind], rate: float, seconds: float, server: Running) -> Latencies:
    """Ask so many times a second, whatever the server does. Raises Absent."""
    try:
        result = checked(open_loop(server.port, kinds, rate, POOL, seconds))
    except OSError as error:
        raise Absent(f"under load: {error}") from error
    return {kind.name: (result.latency(kind.name, 50), result.latency(kind.name, 99)) for kind in kinds}


def options(doc: str | None) -> argparse.ArgumentParser:
    """The options that these benches have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers", metavar="DIRECTORY"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    return parser


class Bench:
    """The measuring as the options say it: servers on one core; this process, and what else it starts, on another."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.connections = max(32, 2 * given.threads)  # of a closed loop: they keep the threads busy, and some wait
        self._peers: Path = given.peers
        self._rounds: int = given.rounds
        self._core, own = two_cores()
        os.sched_setaffinity(0, {own})
        print(f"{given.threads} threads, {given.rounds} rounds; {versions(given.peers)}\n")

    def each(
        self, servers: Sequence[Peer], measure: Callable[[Running], T]
    ) -> tuple[dict[Peer, list[T]], dict[str, str]]:
        """What is measured of each server, in interleaved rounds with fresh processes; and why one has no figures."""

        def measure_one(peer: Peer) -> T:
            with running(peer, self._peers, self._core) as server:
                return measure(server)

        return interleave(servers, self._rounds, measure_one)
