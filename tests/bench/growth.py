"""How the cost of a request grows: CPU time over connections, workers, routes, header fields, and bytes of a body.

    python tests/bench/growth.py [--series NAME ...] [--rounds 3] [--seconds 2] [--plot tests/bench/growth.svg]

Each series changes one thing of one worker that serves a WSGI application on one core, with wrk on another; only the
workers of `workers` have all cores, those of wrk too. CPU time is measured as compare.py does it; each point has fresh
processes, and the rounds go through all points one after another. The table has the median of each point; the plot has
a line for each series, as a multiple of its first point, over a logarithmic axis.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from compare import FIELDS, Load, cost, two_cores
from servers import HELLO, Absent, Peer, prefork, running

KIB = 1024


@dataclass(frozen=True)
class Point:
    """One server and the requests that it gets: `script` is wrk's. `pinned`: to one core."""

    command: Callable[..., list[str]]
    script: str
    connections: int = 64
    pinned: bool = True


def one(head: Sequence[str] = FIELDS, target: str = "/", method: str = "GET", body: int = 0) -> str:
    """wrk's script for one request, made once."""
    lines = [f"{method} {target} HTTP/1.1", *head, *([f"Content-Length: {body}"] if body else [])]
    text = json.dumps("\r\n".join([*lines, "", ""]))
    return f'local data = {text} .. string.rep("x", {body})\nfunction request() return data end\n'


def new(head: Sequence[str]) -> str:
    """wrk's script for requests of which each has another cookie."""
    text = json.dumps("\r\n".join(["GET / HTTP/1.1", *head, "Cookie: n="]))
    return f'local n = 0\nfunction request()\n  n = n + 1\n  return {text} .. n .. "\\r\\n\\r\\n"\nend\n'


def connections(count: int) -> Point:
    return Point(prefork(HELLO, "workers.connections = 12000"), one(), connections=count)


def workers(count: int) -> Point:
    return Point(prefork(HELLO, workers=count), one(), pinned=False)


def routes(count: int) -> Point:
    paths = "\n[[route]]\n".join(f'path = "/part-{number}"\nwsgi = "apps:hello"' for number in range(count))
    choice = f'local random = math.random\nfunction request()\n  return "GET /part-" .. random({count}) - 1 .. '
    rest = json.dumps("\r\n".join([" HTTP/1.1", *FIELDS, "", ""]))
    return Point(prefork(paths), f"{choice}{rest}\nend\n")


def fields(count: int) -> Point:
    return Point(prefork(HELLO), one(_fields(count)))


def new_fields(count: int) -> Point:
    return Point(prefork(HELLO), new(_fields(count - 1)))


def _fields(count: int) -> list[str]:
    return [*FIELDS, *(f"X-Field-{number}: {'v' * 20}" for number in range(count))][:count]


def bodies(size: int) -> Point:
    few = 64 if size <= 64 * KIB else 4
    return Point(prefork('path = "/"\nwsgi = "apps:read"'), one(method="POST", body=size), connections=few)


SERIES: dict[str, tuple[Callable[[int], Point], tuple[int, ...]]] = {
    "connections": (connections, (1, 8, 64, 1000, 10_000)),
    "workers": (workers, (1, 2, 4, 8)),
    "routes": (routes, (1, 10, 100, 300)),
    "fields, the same": (fields, (5, 13, 30, 60)),
    "fields, one new": (new_fields, (5, 13, 30, 60)),
    "bytes of a body": (bodies, (KIB, 16 * KIB, 256 * KIB, 4096 * KIB, 16_384 * KIB)),
}


def measure(point: Point, cores: tuple[int, int], seconds: int, scripts: Path) -> tuple[float, float]:
    """CPU microseconds per request, and requests per second. Raises Absent."""
    script = scripts / "script.lua"
    script.write_text(point.script)
    server_core, wrk_core = cores
    peer = Peer("prefork", "growth", "WSGI", point.command)
    with running(peer, Path(), server_core if point.pinned else None) as server:
        load = Load(wrk_core, point.connections, seconds)
        return cost(server, f"http://127.0.0.1:{server.port}/", load, ("-s", str(script)))


def table(name: str, found: dict[int, list[tuple[float, float]]]) -> str:
    rows = [f"| {name} | CPU us/request | min..max | requests/s |", "| --: | --: | --: | --: |"]
    for at, samples in found.items():
        costs = [of for of, _ in samples]
        rate = median(of for _, of in samples)
        rows.append(f"| {at:,} | {median(costs):,.1f} | {min(costs):,.1f}..{max(costs):,.1f} | {rate:,.0f} |")
    return "\n".join(rows)


WIDTH, HEIGHT, LEFT, TOP = 720, 420, 60, 20
COLOURS = ("#1b6ca8", "#c0392b", "#1e8449", "#8e44ad", "#b9770e", "#34495e")


def plot(found: dict[str, dict[int, list[tuple[float, float]]]]) -> str:
    """An SVG: for each series the median cost as a multiple of its first point, over the multiple of its first x."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, points in found.items():
        first_x, first_y = next((at, median(of for of, _ in samples)) for at, samples in points.items())
        lines[name] = [(at / first_x, median(of for of, _ in samples) / first_y) for at, samples in points.items()]
    most_x = max(math.log10(x) for line in lines.values() for x, _ in line)
    ys = [math.log10(y) for line in lines.values() for _, y in line]
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    width, height = WIDTH - LEFT - 20, HEIGHT - TOP - 50

    def place(x: float, y: float) -> str:
        return f"{LEFT + width * math.log10(x) / most_x:.1f},{TOP + height * (high - math.log10(y)) / (high - low):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    ]
    for power in range(low, high + 1):
        y = TOP + height * (high - power) / (high - low)
        parts.append(f'<path d="M{LEFT},{y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">x {10**power:g}</text>')
    for power in range(math.floor(most_x) + 1):
        x = LEFT + width * power / most_x
        parts.append(f'<path d="M{x:.1f},{TOP}v{height}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + height + 18}" text-anchor="middle">x {10**power:,}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(place(x, y) for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = f"{name} ({', '.join(f'{at:,}' for at in found[name])})"
        parts.append(f'<text x="{LEFT + 10}" y="{TOP + 16 + 16 * number}" fill="{colour}">{label}</text>')
    below = HEIGHT - 8
    parts.append(f'<text x="{LEFT + width / 2}" y="{below}" text-anchor="middle">multiple of the first point</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a point and round")
    parser.add_argument("--plot", type=Path, help="a file for the SVG")
    options = parser.parse_args()
    cores = two_cores("wrk")
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as scripts:
        for name in options.series:
            make, points = SERIES[name]
            found[name] = {at: [] for at in points}
            for number in range(options.rounds):
                for at in points:
                    print(f"{name}, round {number + 1}/{options.rounds}: {at:,} ...", file=sys.stderr)
                    try:
                        found[name][at].append(measure(make(at), cores, options.seconds, Path(scripts)))
                    except Absent as reason:
                        sys.exit(f"{name}, {at}: {reason}")
            print(f"{table(name, found[name])}\n", flush=True)
    if options.plot:
        options.plot.write_text(plot(found))


if __name__ == "__main__":
    main()
