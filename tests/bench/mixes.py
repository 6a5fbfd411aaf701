"""Fast calls beside those that wait or compute: how long each kind takes at one rate of requests, beside the peers.

    python tests/bench/mixes.py [--interface wsgi|asgi] [--mix NAME ...] [--threads 8] [--rounds 3] [--seconds 5]

Each server runs an application on one core, as WSGI with threads or as ASGI (where waiting is an `asyncio.sleep`, and
computing is done in a thread). First each is asked as much as it can answer, on 32 connections or two a thread: its
saturation. Then requests come by chance at the mix's rate, or at 80 % of the least saturation, on 128 connections from
another core, and each latency counts from the time at which its request was due (generator.py). The rounds interleave
the servers, with fresh processes each time; medians are reported, in milliseconds. The peers' environment is that of
compare.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from generator import Kind
from measure import Bench, Latencies, Saturation, flow, options, saturate
from servers import Peer, asynchronous, threaded

PART = 0.8  # of the least saturation
FAST = ("/",)


@dataclass(frozen=True)
class Mix:
    """Kinds of requests, and how many come in a second; None: what the slowest server can take, with some room."""

    name: str
    kinds: tuple[Kind, ...]
    rate: float | None = None


MIXES = (
    Mix("20% wait 20 ms", (Kind("fast", FAST, 0.8), Kind("20 ms", ("/wait/20",), 0.2)), 600),
    Mix("20% wait 3 ms", (Kind("fast", FAST, 0.8), Kind("3 ms", ("/wait/3",), 0.2)), 300),
    Mix("3% wait 100 ms", (Kind("fast", FAST, 0.97), Kind("100 ms", ("/wait/100",), 0.03)), 1000),
    Mix(
        "9% wait 20 ms, 1% compute 50 ms",
        (
            Kind("fast", FAST, 0.9),
            Kind("20 ms", ("/wait/20",), 0.09),
            Kind("50 ms of CPU", ("/compute/50",), 0.01),
        ),
    ),
)


def table(bench: Bench, mix: Mix, servers: Sequence[Peer], seconds: float) -> str:
    """Markdown: each server's saturation, and its latencies at the one rate."""
    full, absent = bench.each(servers, partial(saturate, mix.kinds, bench.connections, seconds / 2))
    rate = mix.rate or PART * min((median(one.rate for one in of) for of in full.values()), default=1.0)
    latencies, late = bench.each([*full], partial(flow, mix.kinds, rate, seconds))
    names = [kind.name for kind in mix.kinds]
    lines = [
        f"{mix.name}; latencies at {rate:,.0f} requests/s",
        "",
        f"| server | serves | saturation | CPU us | {' | '.join(f'{name}: p50 | p99' for name in names)} |",
        f"| --- | --- | --: | --: |{' --: |' * (2 * len(names))}",
        *(row(peer, full[peer], of, names) for peer, of in latencies.items()),
        *(f"| {name} | absent: {why} | | |{' |' * (2 * len(names))}" for name, why in (absent | late).items()),
    ]
    return "\n".join([*lines, ""])


def row(peer: Peer, full: Sequence[Saturation], latencies: Sequence[Latencies], names: Sequence[str]) -> str:
    """The line of one server; medians of each percentile."""
    cells = [peer.name, peer.serves, f"{median(of.rate for of in full):,.0f}", f"{median(of.cpu for of in full):.0f}"]
    for name in names:
        cells += [f"{median(of[name][place] for of in latencies) * 1e3:.1f}" for place in (0, 1)]
    return f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    names = [mix.name for mix in MIXES]
    parser = options(__doc__)
    parser.add_argument("--interface", choices=("wsgi", "asgi"), default="wsgi")
    parser.add_argument("--mix", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {names}")
    parser.add_argument("--seconds", type=float, default=5, help="of requests, a server and round; half to saturate it")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    bench = Bench(given)
    servers = asynchronous("apps:work_asgi") if given.interface == "asgi" else threaded("apps:work", given.threads)
    for mix in MIXES:
        if mix.name in given.mix:
            print(table(bench, mix, servers, given.seconds), flush=True)


if __name__ == "__main__":
    main()
