"""New clients beside busy ones: how long they wait for their first answer, all at once, and one by one.

    python tests/bench/bursts.py [--busy 32] [--new 100] [--compute 200] [--server NAME ...] [--rounds 5]

One worker on one core serves calls that compute for some microseconds; the clients are on another core. The busy ones
ask again as soon as they are answered, so what they wait for an answer is a turn of the worker. A single new client's
wait is given in such turns. Medians of the rounds, which interleave the servers.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path
from statistics import median

from compare import interleave
from crowd import Crowd, latencies, quantile
from servers import Absent, Peer, Running, granian, gunicorn, prefork, running

COMPUTING = "apps:computing"
CONTENDERS = (
    Peer("prefork", "bursts", "WSGI", prefork(f'path = "/"\nwsgi = "{COMPUTING}"')),
    Peer("gunicorn-gthread", "bursts", "8 threads", gunicorn(COMPUTING, "-k", "gthread", "--threads", "8")),
    Peer("granian", "bursts", "8 threads", granian(COMPUTING, "--interface", "wsgi", "--blocking-threads", "8")),
)
SINGLES = 40
WARM_UP = 0.5  # seconds
PATIENCE = 30.0  # seconds


def measure(server: Running, options: argparse.Namespace) -> tuple[float, ...]:
    """Of the new clients at once the p50 and the maximum, then the p50 and p99 of single ones, and a turn: seconds."""
    crowd = Crowd(server.port, f"/{options.compute}")
    try:
        busy = crowd.join(options.busy, stay=True)
        crowd.run(WARM_UP)
        crowd.forget()
        crowd.run(WARM_UP)
        turn = quantile(latencies(busy), 0.5)
        singles = []
        for _ in range(SINGLES):
            crowd.run(random.uniform(1.0, 2.0) * turn)
            new = crowd.join(1, stay=False)
            crowd.run(PATIENCE, new)
            singles += new
        burst = crowd.join(options.new, stay=False)
        crowd.run(PATIENCE, burst)
    finally:
        crowd.close()
    at_once, alone = latencies(burst), latencies(singles)
    if len(at_once) < options.new or len(alone) < SINGLES:
        raise Absent("some clients had no answer")
    return quantile(at_once, 0.5), at_once[-1], quantile(alone, 0.5), quantile(alone, 0.99), turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=32)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--compute", type=int, default=200, help="microseconds of a call")
    parser.add_argument("--server", action="append", help="one of the contenders; may be given again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers")
    options = parser.parse_args()
    server_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})

    def measure_one(peer: Peer) -> tuple[float, ...]:
        with running(peer, options.peers, server_core) as server:
            return measure(server, options)

    chosen = [peer for peer in CONTENDERS if not options.server or peer.name in options.server]
    samples, absent = interleave(chosen, options.rounds, measure_one)
    print(f"{options.new} new clients at once, and single ones, beside {options.busy} of calls of {options.compute} us")
    for name, reason in absent.items():
        print(f"{name}: {reason}")
    for peer, measured in samples.items():
        p50, most, alone, worst, turn = (median(column) for column in zip(*measured, strict=True))
        print(
            f"{peer.name:18} p50 {p50 * 1e3:7.1f} ms, max {most * 1e3:7.1f} ms; a single one p50 {alone / turn:4.2f},"
            f" p99 {worst / turn:4.2f} turns of {turn * 1e3:.1f} ms"
        )


if __name__ == "__main__":
    main()
