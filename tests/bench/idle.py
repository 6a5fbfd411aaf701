"""What idle connections cost: memory for each, and CPU time of the requests that others make meanwhile.

    python tests/bench/idle.py [--idle 10000] [--rounds 3] [--seconds 2]

Two prefork servers of one worker with epoll serve a WSGI application on one core. To one of them the idle connections
are opened, each with one request behind it; then requests are made of both at the same time, on 16 connections each,
and their CPU time is measured as compare.py does it. Memory is the growth of the worker's resident set over the number
of connections; what the kernel holds for them is not in it. Medians of the rounds are reported.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil
from compare import FIELDS, SAME, Load, costs, two_cores
from servers import HELLO, Absent, Peer, Running, prefork, running

ACTIVE = 16
MOST_MEMORY = 3.0  # KiB a connection, the target
MOST_CPU = 1.10  # times the cost without idle connections, the target
A_SOURCE = 5000  # connections from each address 127.0.0.x, or its ports would get short
REQUEST = "\r\n".join(("GET / HTTP/1.1", *FIELDS, "", "")).encode()
RESERVE = 200  # descriptors besides the idle connections


def connect(port: int, number: int) -> socket.socket:
    """The idle connection of this number: its request has been answered. Raises Absent."""
    try:
        client = socket.create_connection(("127.0.0.1", port), 10, (f"127.0.1.{1 + number // A_SOURCE}", 0))
        client.sendall(REQUEST)
        answer = client.recv(65536)
    except OSError as error:
        raise Absent(f"idle connection {number}: {error}") from error
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise Absent(f"idle connection {number} got {answer[:200]!r}")
    return client


def resident(server: Running) -> int:
    """Bytes of the worker's resident set, it being the master's only child."""
    (worker,) = psutil.Process(server.pid).children()
    return int(worker.memory_info().rss)


def measure(peer: Peer, core: int, load: Load, idle: int) -> tuple[float, float, float]:
    """KiB an idle connection, CPU microseconds per request without them and with them. Raises Absent."""
    with running(peer, Path(), core) as free, running(peer, Path(), core) as server, ExitStack() as clients:
        asked = [(each, f"http://127.0.0.1:{each.port}/", SAME) for each in (free, server)]
        costs(asked, load)  # so that all the memory is there that requests take by themselves
        before = resident(server)
        for number in range(idle):
            clients.enter_context(connect(server.port, number))
        memory = (resident(server) - before) / idle / 1024
        (without, _), (among, _) = costs(asked, load)
        return memory, without, among


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a measurement")
    options = parser.parse_args()
    server_core, wrk_core = two_cores("wrk")
    load = Load(wrk_core, ACTIVE, options.seconds)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = options.idle + RESERVE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        sys.exit(f"idle.py needs {wanted} descriptors, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    limits = (f"workers.connections = {options.idle + 64}", 'workers.event_loop = "epoll"')
    peer = Peer("prefork", "wsgi", "WSGI", prefork(HELLO, *limits, "http.keepalive_timeout = 3600"))
    rounds = []
    for number in range(1, options.rounds + 1):
        print(f"round {number}/{options.rounds} ...", file=sys.stderr)
        rounds.append(measure(peer, server_core, load, options.idle))
    memory, without, among = (median(figures) for figures in zip(*rounds, strict=True))
    ratio = median(with_them / alone for _, alone, with_them in rounds)
    print(
        f"{options.idle} idle connections, {options.rounds} rounds of {options.seconds} s, {ACTIVE} active connections"
    )
    print(f"memory per idle connection: {memory:.2f} KiB, at most {MOST_MEMORY} is the target")
    print(
        f"CPU per request: {without:.1f} us without them, {among:.1f} us with them: x {ratio:.2f}, "
        f"at most {MOST_CPU} is the target"
    )


if __name__ == "__main__":
    main()
