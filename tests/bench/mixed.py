"""Slow and fast calls in one worker of 8 threads: what 4 clients of a 100 ms handler do to 16 clients of a fast one.

    python -m tests.bench.mixed [SECONDS]

Prints p50 and p99 of the fast ones, and how many of the slow ones there were against the ideal: once with a handler
that sleeps, once with one that computes (which holds the GIL, so there the figures are what Python allows).
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.harness import Server

APP = """
import time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        time.sleep(0.1)
    elif path == "/spin":
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
CONFIG = """
[workers]
count = 1
threads = 8
[log]
access = ""
[[route]]
path = "/"
wsgi = "app:app"
"""
SLOW, FAST = 4, 16
DURATION = 0.1  # seconds of a slow call


def ask(port: int, path: str, until: float) -> list[float]:
    """The seconds that each request took, one after another on one connection."""
    wire = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    times = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (began := time.monotonic()) < until:
            client.sendall(wire)
            while b"hello" not in client.recv(65536):
                pass
            times.append(time.monotonic() - began)
            if path == "/":
                time.sleep(0.002)  # a load that leaves the clients' own core some room
    return times


def measure(port: int, slow: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    jobs = [(port, slow, until)] * SLOW + [(port, "/", until)] * FAST
    with multiprocessing.Pool(len(jobs)) as pool:
        results = pool.starmap(ask, jobs, chunksize=1)
    fast = sorted(each for times in results[SLOW:] for each in times)
    rate = sum(map(len, results[:SLOW])) / seconds
    ideal = SLOW / DURATION
    cuts = statistics.quantiles(fast, n=100)
    print(
        f"{slow:8} fast: {len(fast) / seconds:6.0f}/s, p50 {cuts[49] * 1e3:5.1f} ms, p99 {cuts[98] * 1e3:5.1f} ms,"
        f" worst {fast[-1] * 1e3:5.1f} ms; slow: {rate:4.1f}/s, {rate / ideal:.0%} of the ideal"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "app.py").write_text(APP)
        server = Server(home, CONFIG)
        try:
            server.wait_ready()
            for slow in ("/", "/sleep", "/spin"):
                measure(server.port, slow, seconds)
        finally:
            server.close()


if __name__ == "__main__":
    main()
