"""Calls that wait, each as long as the others: requests per second of one worker with threads, beside its peers.

    python tests/bench/waits.py [--waits 1 2 3 5 8 10 20 50 100] [--streams 2] [--queries 3 20] [--threads 8]
                                [--rounds 3] [--seconds 2]

Each server runs a WSGI application on one core, whose every call sleeps that many milliseconds, and is asked on 32
connections or two a thread, each again at once, from another core. After the plain waits come a response of five pieces
with a wait before each, and one path that waits for one request in ten, as its query says. The ratio is that of prefork
to the better of the others. CPU time is that of the server's whole process tree, in microseconds per request. The
rounds interleave the servers, with fresh processes each time; medians are reported. The peers' environment is that of
compare.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from generator import Kind
from measure import Bench, Saturation, options, saturate
from servers import Peer, threaded

WAITS = (1, 2, 3, 5, 8, 10, 20, 50, 100)  # milliseconds
TURNS = 20  # waits that a measurement lasts, at least


@dataclass(frozen=True)
class Case:
    """One line of the table: what is asked, and the seconds that a call waits."""

    name: str
    kinds: tuple[Kind, ...]
    wait: float


def plain(wait: float) -> Case:
    return Case(f"{wait:g} ms", (Kind("wait", (f"/wait/{wait:g}",)),), wait / 1000)


def stream(wait: float) -> Case:
    return Case(f"5 pieces, {wait:g} ms before each", (Kind("stream", (f"/stream/{wait:g}",)),), 5 * wait / 1000)


def query(wait: float) -> Case:
    kinds = Kind("fast", ("/wait?0",), 0.9), Kind("wait", (f"/wait?{wait:g}",), 0.1)
    return Case(f"1 in 10 {wait:g} ms, by its query", kinds, wait / 1000)


def row(case: Case, peers: Sequence[Peer], samples: dict[Peer, list[Saturation]]) -> str:
    """The case's line; a server without figures has none."""
    rates = {peer: median(one.rate for one in of) for peer, of in samples.items()}
    first, *others = peers
    best = max((rates[peer] for peer in others if peer in rates), default=0.0)
    ratio = f"{rates[first] / best:.2f}" if best and first in rates else ""
    figures = [f"{rates[peer]:,.0f}" if peer in rates else "" for peer in peers]
    cpu = [f"{median(one.cpu for one in samples[peer]):.0f}" if peer in samples else "" for peer in peers]
    return f"| {' | '.join([case.name, *figures, ratio, *cpu])} |"


def arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--waits", type=float, nargs="*", default=WAITS, metavar="MS")
    parser.add_argument("--streams", type=float, nargs="*", default=(2,), metavar="MS")
    parser.add_argument("--queries", type=float, nargs="*", default=(3, 20), metavar="MS")
    parser.add_argument("--seconds", type=float, default=2, help="of load, a server and round; longer for long waits")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    bench = Bench(given)
    peers = threaded("apps:work", given.threads)
    names = " | ".join(peer.name for peer in peers)
    print(f"| requests/s of calls that wait | {names} | ratio | CPU: {names} |")
    print(f"| --- |{' --: |' * (2 * len(peers) + 1)}", flush=True)
    for case in [*map(plain, given.waits), *map(stream, given.streams), *map(query, given.queries)]:
        seconds = max(given.seconds, TURNS * case.wait)
        samples, absent = bench.each(peers, partial(saturate, case.kinds, bench.connections, seconds))
        print(row(case, peers, samples), flush=True)
        for name, reason in absent.items():
            print(f"{case.name}: {name} is absent: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
