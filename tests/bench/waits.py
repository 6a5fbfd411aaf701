"""Calls that wait, each as long as the others: requests per second of one worker with threads, beside its peers.

    python tests/bench/waits.py [--waits 1 2 3 5 8 10 20 50 100] [--streams 2] [--queries 3 20] [--threads 8]
                                [--beside-asgi] [--rounds 3] [--seconds 2]

Each server runs a WSGI application on one core, whose every call sleeps that many milliseconds, and is asked on 32
connections or two a thread, each again at once, from another core. After the plain waits come a response of five pieces
with a wait before each, and one path that waits for one request in ten, as its query says. The ratio is that of prefork
to the better of the others. CPU time is that of the server's whole process tree, in microseconds per request. The
rounds interleave the servers, with fresh processes each time; medians are reported. The peers' environment is that of
compare.py.
"""

from __future__ import annotations

import argparse

from generator import Kind
from measure import Bench, options
from servers import BESIDE_ASGI, threaded
from tables import Case, print_saturations

WAITS = (1, 2, 3, 5, 8, 10, 20, 50, 100)  # milliseconds


def plain(wait: float) -> Case:
    return Case(f"{wait:g} ms", (Kind("wait", (f"/wait/{wait:g}",)),), wait / 1000)


def stream(wait: float) -> Case:
    return Case(f"5 pieces, {wait:g} ms before each", (Kind("stream", (f"/stream/{wait:g}",)),), 5 * wait / 1000)


def query(wait: float) -> Case:
    kinds = Kind("fast", ("/wait?0",), 0.9), Kind("wait", (f"/wait?{wait:g}",), 0.1)
    return Case(f"1 in 10 {wait:g} ms, by its query", kinds, wait / 1000)


def arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--waits", type=float, nargs="*", default=WAITS, metavar="MS")
    parser.add_argument("--streams", type=float, nargs="*", default=(2,), metavar="MS")
    parser.add_argument("--queries", type=float, nargs="*", default=(3, 20), metavar="MS")
    parser.add_argument("--beside-asgi", action="store_true", help="prefork's worker hosts an ASGI application, too")
    parser.add_argument("--seconds", type=float, default=2, help="of load, a server and round; longer for long waits")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    bench = Bench(given)
    cases = [*map(plain, given.waits), *map(stream, given.streams), *map(query, given.queries)]
    servers = threaded("apps:work", given.threads, BESIDE_ASGI if given.beside_asgi else "")
    print_saturations(bench, "a call waits", cases, servers, given.seconds)


if __name__ == "__main__":
    main()
