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

from generator import Kind
from measure import Bench, options
from servers import asynchronous, threaded
from tables import Mix, latencies

FAST = ("/",)
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


def arguments() -> argparse.Namespace:
    names = [mix.name for mix in MIXES]
    named = "; ".join(names).replace("%", "%%")
    parser = options(__doc__)
    parser.add_argument("--interface", choices=("wsgi", "asgi"), default="wsgi")
    parser.add_argument("--mix", nargs="+", choices=names, default=names, metavar="NAME", help=f"of: {named}")
    parser.add_argument("--seconds", type=float, default=5, help="of requests, a server and round; half to saturate it")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    bench = Bench(given)
    servers = asynchronous("apps:work_asgi") if given.interface == "asgi" else threaded("apps:work", given.threads)
    for mix in MIXES:
        if mix.name in given.mix:
            print(latencies(bench, mix, servers, given.seconds), flush=True)


if __name__ == "__main__":
    main()
