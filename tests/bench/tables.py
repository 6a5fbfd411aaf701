"""The two tables of benches under the generator's load, in Markdown: saturations, and latencies at one rate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from generator import Kind
from measure import Bench, Latencies, Saturation, flow, saturate
from servers import Peer

TURNS = 20  # waits that a measurement lasts, at least
PART = 0.8  # of the least saturation


@dataclass(frozen=True)
class Case:
    """One line of the table: what is asked, and the seconds that a call waits."""

    name: str
    kinds: tuple[Kind, ...]
    wait: float


@dataclass(frozen=True)
class Mix:
    """Kinds of requests, and how many come in a second; None: what the slowest server can take, with some room."""

    name: str
    kinds: tuple[Kind, ...]
    rate: float | None = None


def print_saturations(bench: Bench, title: str, cases: Sequence[Case], servers: Sequence[Peer], seconds: float) -> None:
    """Requests per second of each server in each case, and the ratio of the first server to the best of the others; CPU
    time in microseconds per request. Each line as soon as it is measured; why one has no figures goes to stderr.
    """
    names = " | ".join(peer.name for peer in servers)
    print(f"| requests/s: {title} | {names} | ratio | CPU us: {names} |")
    print(f"| --- |{' --: |' * (2 * len(servers) + 1)}", flush=True)
    for case in cases:
        lasting = max(seconds, TURNS * case.wait)
        samples, absent = bench.each(servers, partial(saturate, case.kinds, bench.connections, lasting))
        print(_row(case, servers, samples), flush=True)
        for name, reason in absent.items():
            print(f"{case.name}: {name} is absent: {reason}", file=sys.stderr)


def _row(case: Case, peers: Sequence[Peer], samples: dict[Peer, list[Saturation]]) -> str:
    """The case's line; a server without figures has none."""
    rates = {peer: median(one.rate for one in of) for peer, of in samples.items()}
    first, *others = peers
    best = max((rates[peer] for peer in others if peer in rates), default=0.0)
    ratio = f"{rates[first] / best:.2f}" if best and first in rates else ""
    figures = [f"{rates[peer]:,.0f}" if peer in rates else "" for peer in peers]
    cpu = [f"{median(one.cpu for one in samples[peer]):.0f}" if peer in samples else "" for peer in peers]
    return f"| {' | '.join([case.name, *figures, ratio, *cpu])} |"


def latencies(bench: Bench, mix: Mix, servers: Sequence[Peer], seconds: float) -> str:
    """Markdown: each server's saturation, and its latencies at the one rate."""
    full, absent = bench.each(servers, partial(saturate, mix.kinds, bench.connections, seconds / 2))
    rate = mix.rate or PART * min((median(one.rate for one in of) for of in full.values()), default=1.0)
    taken, late = bench.each([*full], partial(flow, mix.kinds, rate, seconds))
    names = [kind.name for kind in mix.kinds]
    lines = [
        f"{mix.name}; latencies at {rate:,.0f} requests/s",
        "",
        f"| server | serves | saturation | CPU us | {' | '.join(f'{name}: p50 | p99' for name in names)} |",
        f"| --- | --- | --: | --: |{' --: |' * (2 * len(names))}",
        *(_line(peer, full[peer], of, names) for peer, of in taken.items()),
        *(f"| {name} | absent: {why} | | |{' |' * (2 * len(names))}" for name, why in (absent | late).items()),
    ]
    return "\n".join([*lines, ""])


def _line(peer: Peer, full: Sequence[Saturation], taken: Sequence[Latencies], names: Sequence[str]) -> str:
    """The line of one server; medians of each percentile."""
    cells = [peer.name, peer.serves, f"{median(of.rate for of in full):,.0f}", f"{median(of.cpu for of in full):.0f}"]
    for name in names:
        cells += [f"{median(of[name][place] for of in taken) * 1e3:.1f}" for place in (0, 1)]
    return f"| {' | '.join(cells)} |"
