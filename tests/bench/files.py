"""Static files against nginx: CPU time per request by kind of request, and the throughput of large files.

    python tests/bench/files.py [--rounds 5] [--seconds 2] [--case NAME ...]

nginx has sendfile, tcp_nopush and an open_file_cache that holds every file; prefork has its defaults; one worker each,
on one core, wrk on another. CPU time is measured as compare.py does it. Each round starts both servers anew and puts
the same cases to them, one after the other; medians are reported, with what the ratio is to be at most (for the
throughput: at least).
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from compare import FIELDS, SAME, Load, cost, two_cores, wrk
from servers import Peer, nginx, prefork, running

MANY = 10_000
PRIME = 7919  # steps through them all in no order that a cache could like


@dataclass(frozen=True)
class Case:
    """`options` makes wrk's from the port and a directory for scripts; `target` bounds the ratio to nginx; `warm_up` is
    how many requests come before those that are measured, at the least.
    """

    path: str
    target: float
    options: Callable[[int, Path], tuple[str, ...]]
    connections: int = 64
    throughput: bool = False
    warm_up: int = 0


def same(port: int, scripts: Path) -> tuple[str, ...]:
    return SAME


def unchanged(port: int, scripts: Path) -> tuple[str, ...]:
    """As a browser asks again for what it has."""
    head = fetch(port, "/1k.txt")
    etag, modified = (re.search(rf"^{name}: (.*?)\r$", head, re.M | re.I)[1] for name in ("etag", "last-modified"))
    return (*SAME, "-H", f"If-None-Match: {etag}", "-H", f"If-Modified-Since: {modified}")


def every(port: int, scripts: Path) -> tuple[str, ...]:
    """wrk's script that asks for all of the many, each request written beforehand, alike in every run of wrk."""
    fields = json.dumps("\r\n".join(["", *FIELDS, "", ""])).replace("\\r\\n", "\\13\\10")
    script = scripts / "many.lua"
    script.write_text(
        f"local requests, at = {{}}, 0\n"
        f"function init(args)\n  for n = 0, {MANY - 1} do\n"
        f"    requests[n] = string.format('GET /many/%02d/%04d.txt HTTP/1.1', n % 100, n) .. {fields}\n  end\nend\n"
        f"function request()\n  at = (at + {PRIME}) % {MANY}\n  return requests[at]\nend\n"
    )
    return ("-s", str(script))


CASES = {
    "1 KiB": Case("/1k.txt", 0.85, same),
    "64 KiB": Case("/64k.txt", 1.05, same),
    "304": Case("/1k.txt", 1.0, unchanged),
    f"{MANY:,} files of 4 KiB": Case("/", 1.1, every, warm_up=4 * MANY),
    "10 MiB": Case("/10m.bin", 0.95, same, connections=8, throughput=True),
}


def fetch(port: int, path: str) -> str:
    """The head of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall("\r\n".join((f"GET {path} HTTP/1.1", *FIELDS, "Connection: close", "", "")).encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[0].decode("latin-1") + "\r\n"


def plant(tree: Path) -> None:
    tree.chmod(0o755)
    (tree / "1k.txt").write_bytes(b"x" * 1023 + b"\n")
    (tree / "64k.txt").write_bytes(b"x" * (64 << 10))
    (tree / "10m.bin").write_bytes(b"x" * (10 << 20))
    for number in range(MANY):
        folder = tree / f"many/{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04}.txt").write_bytes(b"%04d" % number * 1024)


def measure(peer: Peer, cases: dict[str, Case], core: int, wrk_core: int, seconds: int, scripts: Path) -> list[float]:
    """Of each case CPU microseconds per request or, for throughput, MiB/s. Raises Absent."""
    figures = []
    with running(peer, Path(), core) as server:
        for case in cases.values():
            url = f"http://127.0.0.1:{server.port}{case.path}"
            load = Load(wrk_core, case.connections, seconds)
            options, warm = case.options(server.port, scripts), 0
            while warm < case.warm_up:
                warm += wrk(url, load, seconds, options)[0]
            cpu, rate = cost(server, url, load, options)
            figures.append(rate * 10 if case.throughput else cpu)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a case and round")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    core, wrk_core = two_cores("wrk")
    cases = {name: CASES[name] for name in options.case}
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name, tempfile.TemporaryDirectory() as scripts:
        plant(Path(name))
        caching = f"open_file_cache max={2 * MANY} inactive=60s;"
        peers = (
            Peer("prefork", "files", "`files`", prefork(f'path = "/"\nfiles = "{name}"')),
            Peer("nginx", "files", "sendfile", nginx(f"root {name}; sendfile on; tcp_nopush on; {caching}")),
        )
        rounds: dict[Peer, list[list[float]]] = {peer: [] for peer in peers}
        for number in range(1, options.rounds + 1):
            print(f"round {number}/{options.rounds} ...", file=sys.stderr)
            for peer in peers:
                rounds[peer].append(measure(peer, cases, core, wrk_core, options.seconds, Path(scripts)))
    print(
        "| case | prefork | min..max | nginx | min..max | ratio | target |\n| --- | --: | --: | --: | --: | --: | --: |"
    )
    for at, (name, case) in enumerate(cases.items()):
        ours, theirs = ([figures[at] for figures in rounds[peer]] for peer in peers)
        cells = [f"{median(of):,.1f} | {min(of):,.1f}..{max(of):,.1f}" for of in (ours, theirs)]
        unit, bound = ("MiB/s", "at least") if case.throughput else ("us/request", "at most")
        ratio = median(ours) / median(theirs)
        print(f"| {name}, {unit} | {' | '.join(cells)} | {ratio:.2f} | {bound} {case.target} |")


if __name__ == "__main__":
    main()
