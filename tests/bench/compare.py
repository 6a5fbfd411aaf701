"""The comparison: CPU time per request of prefork and its peers, side by side. Owns the measuring and the table.

    python tests/bench/compare.py --install            # once: the peers, into a virtual environment of their own
    python tests/bench/compare.py [--case wsgi|asgi|fastapi|static|respond] [--server NAME ...] [--rounds 5]

Each server runs with one worker on one core, `wrk -t1` on another. Its figure is the user and system time of its whole
process tree while wrk ran, divided by the requests wrk counted, which depends far less than requests per second on who
else wants the core. "busy" is the server's share of its core: well under 100 %, and wrk, or something else on the
machine, held it back; then requests/s say little. The rounds interleave the servers, with fresh processes each time,
and the median is reported, so that a drift of the machine, or one lucky memory layout, favours nobody.
Every connection sends the same 13 header fields, as a browser does; a server may profit from the repetition.
A server without a figure is listed with the reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import TypeVar

from apps import BODY
from servers import FILE, PEERS, Absent, Peer, Running, running

T = TypeVar("T")
HOST = "shop.example.com"
FIELDS = (
    f"Host: {HOST}",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br",
    "Connection: keep-alive",
    f"Referer: https://{HOST}/catalogue?page=2",
    "Cookie: session=1f0c7f6a9b3d4e58; theme=dark; consent=yes",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Cache-Control: max-age=0",
)
SAME = tuple(option for field in FIELDS for option in ("-H", field))  # of wrk: these fields in every request
CASES = {
    "wsgi": ("/", BODY),
    "asgi": ("/", BODY),
    "fastapi": ("/", b'{"message":"Hello, world!"}'),
    "respond": ("/", BODY),
    "static": ("/static/file.txt", FILE),
}  # path, body
PACKAGES = (
    "gunicorn",
    "uvicorn[standard]",
    "granian",
    "hypercorn",
    "fastapi",
    "flask",
    "django",
    "psycopg[binary]",
    "bjoern",
)  # bjoern is compiled on the spot, against libev
WARM_UP = 1  # seconds of wrk before the measured ones, the least it can do


@dataclass(frozen=True)
class Load:
    """What wrk does, and the core it does it on."""

    core: int
    connections: int
    seconds: int


@dataclass(frozen=True)
class Reply:
    """The size in bytes of one response with its head, and whether the connection stays."""

    size: int
    keep_alive: bool


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    cpu: float  # microseconds per request
    rate: float  # requests per second
    reply: Reply
    memory: float  # MiB of the worker, after the load

    @property
    def busy(self) -> float:
        """How much of its core the server used, 0 to 1."""
        return self.cpu * self.rate / 1e6


def two_cores(*tools: str) -> tuple[int, int]:
    """The server's core and that of the load; leaves the program where they, taskset or one of the tools is missing."""
    cores = sorted(os.sched_getaffinity(0))
    missing = [tool for tool in ("taskset", *tools) if not shutil.which(tool)]
    missing += ["two cores: one for the server, one for the load"] if len(cores) < 2 else []
    if missing:
        sys.exit(f"this needs {', '.join(missing)}")
    return cores[-1], cores[0]


def ask(port: int, path: str, body: bytes) -> Reply:
    """Send the measured request once; raises Absent where the answer is not a 200 with this body."""
    request = "\r\n".join((f"GET {path} HTTP/1.1", *FIELDS, "", "")).encode()
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            while piece := client.recv(65536):
                got += piece
                head, _, rest = got.partition(b"\r\n\r\n")
                fields = head.lower() + b"\r\n"
                counted = rest == body and b"\r\ncontent-length: %d\r\n" % len(body) in fields
                chunked = rest.endswith(b"\r\n0\r\n\r\n") and b"\r\ntransfer-encoding: chunked\r\n" in fields
                if rest and not head.startswith(b"HTTP/1.1 200 "):
                    break
                if counted or (chunked and body in rest):
                    return Reply(len(got), b"\r\nconnection: close\r\n" not in fields)
    except OSError as error:
        raise Absent(f"does not answer: {error}, after {got[:200]!r}") from error
    raise Absent(f"answers {got[:200]!r}")


def wrk(url: str, load: Load, seconds: int, options: Sequence[str]) -> tuple[int, float]:
    """Requests done and requests per second; raises Absent on a socket error or another status than 2xx and 3xx."""
    command = ["taskset", "-c", str(load.core), "wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", *options, url]
    result = subprocess.run(command, capture_output=True, text=True)
    text = result.stdout
    if result.returncode:
        raise Absent(f"under load: wrk says {result.stderr.strip()}")
    if wrong := re.search(r"(Socket errors|Non-2xx).*", text):
        raise Absent(f"under load: {wrong[0]}")
    done, rate = re.search(r"(\d+) requests in", text), re.search(r"Requests/sec: +([\d.]+)", text)
    if done is None or rate is None or not int(done[1]):
        raise Absent("under load: not one request was answered")
    return int(done[1]), float(rate[1])


def measure(peer: Peer, peers: Path, core: int, load: Load) -> Sample:
    """Start the server, check its answer, load it, stop it. Raises Absent."""
    path, body = CASES[peer.case]
    with running(peer, peers, core) as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        reply = ask(server.port, path, body)
        return Sample(*cost(server, url, load, SAME), reply, server.memory())


def cost(server: Running, url: str, load: Load, options: Sequence[str]) -> tuple[float, float]:
    """CPU microseconds per request and requests per second, once warm, of what wrk asks for with these options."""
    return costs([(server, url, options)], load)[0]


def costs(asked: Sequence[tuple[Running, str, Sequence[str]]], load: Load) -> list[tuple[float, float]]:
    """What `cost` says of each, all loaded at the same time: on one core whatever slows the machine slows all of them,
    so that their ratios are steady where the figures are not.
    """
    with ThreadPoolExecutor(len(asked)) as pool:
        started = [pool.submit(wrk, url, load, WARM_UP, options) for _, url, options in asked]
        for warm in started:
            warm.result()
        before = [server.cpu() for server, _, _ in asked]
        started = [pool.submit(wrk, url, load, load.seconds, options) for _, url, options in asked]
        counted = [measured.result() for measured in started]
        after = [server.cpu() for server, _, _ in asked]
    if any(one.keys() != other.keys() for one, other in zip(before, after, strict=True)):
        raise Absent("under load: a process of it came or went")
    return [
        ((sum(one.values()) - sum(other.values())) / done * 1e6, rate)
        for one, other, (done, rate) in zip(after, before, counted, strict=True)
    ]


def interleave(
    chosen: Sequence[Peer], rounds: int, measure_one: Callable[[Peer], T]
) -> tuple[dict[Peer, list[T]], dict[str, str]]:
    """All rounds: the samples of each server, and by name why one has none: Absent in any round is enough."""
    samples: dict[Peer, list[T]] = {peer: [] for peer in chosen}
    absent: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for peer in list(samples):
            print(f"round {number}/{rounds}: {peer.name} ...", file=sys.stderr)
            try:
                samples[peer].append(measure_one(peer))
            except Absent as reason:
                absent[peer.name] = str(reason)
                del samples[peer]
    return samples, absent


def table(samples: dict[Peer, list[Sample]], absent: dict[str, str]) -> str:
    """Markdown: medians, and ratios of them against the first server that has figures."""
    medians = {peer: (median(one.cpu for one in of), median(one.rate for one in of)) for peer, of in samples.items()}
    first, (first_cpu, first_rate) = next(((peer.name, of) for peer, of in medians.items()), ("", (1.0, 1.0)))
    rows = [
        f"| server | serves | CPU us/request | min..max | x {first} | requests/s | x {first} | busy | bytes/response "
        "| worker MiB |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for peer, of in samples.items():
        cpu, rate = medians[peer]
        cpus = [one.cpu for one in of]
        busy = median(one.busy for one in of)
        size = f"{of[0].reply.size}{'' if of[0].reply.keep_alive else ', then closes'}"
        rows.append(
            f"| {peer.name} | {peer.serves} | {cpu:.1f} | {min(cpus):.1f}..{max(cpus):.1f} | {cpu / first_cpu:.2f} "
            f"| {rate:,.0f} | {rate / first_rate:.2f} | {busy:.0%} | {size} | {median(one.memory for one in of):.1f} |"
        )
    rows += [f"| {name} | absent: {reason} | | | | | | | | |" for name, reason in absent.items()]
    return "\n".join(rows)


def versions(peers: Path) -> str:
    """What was compared, in a line."""
    places = [str(place) for place in (peers / "lib").glob("python*/site-packages")]
    names = {"uvloop", "httptools", *(package.partition("[")[0] for package in PACKAGES)}
    found = [f"{of.name} {of.version}" for of in distributions(path=places) if of.name.lower() in names]
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr if shutil.which("nginx") else ""
    return ", ".join([f"CPython {sys.version.split()[0]}", *sorted(found), nginx.strip().rpartition(" ")[2]])


def install(peers: Path) -> None:
    """Make the environment of the peers; a package that cannot be had is named, with pip's last word, and left out."""
    subprocess.run([sys.executable, "-m", "venv", str(peers)], check=True)
    for package in PACKAGES:
        pip = [str(peers / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        result = subprocess.run(pip, capture_output=True, text=True)
        why = result.stderr.strip().rpartition("\n")[2]
        print(f"{package}: {'installed' if not result.returncode else f'NOT installed: {why}'}")


def arguments() -> argparse.Namespace:
    names = list(dict.fromkeys(peer.name for peer in PEERS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="make the environment of the peers, then leave")
    parser.add_argument(
        "--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers", metavar="DIRECTORY"
    )
    parser.add_argument("--case", choices=CASES, default="wsgi")
    parser.add_argument(
        "--server", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}; default: all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a server and round")
    parser.add_argument("--connections", type=int, default=64)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.install:
        install(options.peers)
        return
    server_core, wrk_core = two_cores("wrk")
    of_case = {peer.name: peer for peer in PEERS if peer.case == options.case}
    names = list(dict.fromkeys(options.server or of_case))
    load = Load(wrk_core, options.connections, options.seconds)
    chosen = [of_case[name] for name in names if name in of_case]
    samples, absent = interleave(chosen, options.rounds, lambda peer: measure(peer, options.peers, server_core, load))
    absent |= {name: f"has no case {options.case}" for name in names if name not in of_case}
    print(f"case {options.case}, {options.rounds} rounds of {options.seconds} s, {options.connections} connections")
    print(versions(options.peers), end="\n\n")
    print(table(samples, absent))


if __name__ == "__main__":
    main()
