"""Lifecycles side by side: what reloads, stops, deaths and a broken application cost the clients of each server.

    python tests/bench/compare.py --install            # once: the peers, into a virtual environment of their own
    python tests/bench/lifecycle.py [--server NAME ...] [--scenario FIGURE ...] [--reloads 30]

Each server has two workers and a trivial application (contenders.py), under a load of both kinds of clients (load.py)
where that is what is measured. The figures:

    reloads     requests failed / races of kept connections, of all requests, in so many HUPs
    p99         of latency in ms, at rest -> while it reloads
    new code    median ms from HUP to the first answer of a new worker
    stop        TERM with slow requests under way: how many of them were answered, ms until new connections are
                refused, ms from the last answer to the exit, and the exit status
    fast stop   seconds to stop at once with a slow request under way
    kill -9     requests failed / races for each of three workers killed, median ms until another one answers
    broken      an application that does not load, then HUP: failed requests, and seconds from the next good HUP until
                its workers answer; or that the server is gone
    idle        wake-ups of the master a second
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import psutil
from contenders import BROKEN, CONTENDERS, REPO, SLOW, WORKERS, Contender, Site
from load import Load, read_answer
from servers import Absent, free_port, stop

CALM = 2.0  # seconds between two deaths
PATIENCE = 15.0  # seconds for whatever has to happen
REQUEST = b"GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


class Running:
    """A contender at work."""

    def __init__(self, contender: Contender, site: Site, process: subprocess.Popen[bytes]) -> None:
        self.contender = contender
        self.site = site
        self.process = process
        self.master = psutil.Process(process.pid)

    def ask(self, path: bytes = b"/") -> str:
        """The pid of the worker that answers; OSError."""
        with socket.create_connection(("127.0.0.1", self.site.port), PATIENCE) as client:
            client.sendall(REQUEST % path)
            head, body = read_answer(client)
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise OSError(head.split(b"\r\n")[0].decode())
            return body.decode()

    def workers(self) -> set[int]:
        """The processes that have answered so far, and live."""
        with suppress(psutil.Error):
            return {child.pid for child in self.master.children(True) if child.status() != psutil.STATUS_ZOMBIE}
        return set()

    def serving(self) -> set[int]:
        """Who answers, found out by asking; nothing else tells workers from helpers in every server."""
        found: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(found) < WORKERS and time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                found.add(int(self.ask()))
        if not found:
            raise Absent("nobody answers any more")
        return found

    def hup(self) -> None:
        self.master.send_signal(signal.SIGHUP)

    def until_new(self, before: set[int], limit: float = PATIENCE) -> float:
        """Seconds until somebody answers who is not among `before`; Absent if nobody does."""
        began = time.monotonic()
        while time.monotonic() < began + limit:
            with suppress(OSError, ValueError):
                if int(self.ask()) not in before:
                    return time.monotonic() - began
            time.sleep(0.001)
        raise Absent("no new worker answers")

    def is_alive(self) -> bool:
        return self.process.poll() is None


@contextmanager
def running(contender: Contender, peers: Path) -> Iterator[Running]:
    """The contender, whose workers all answer; ended, and its files removed, at the end. Raises Absent."""
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx drops to a user of its own
        site = Site(directory, free_port(), peers)
        for file, text in contender.files(site).items():
            (directory / file).parent.mkdir(exist_ok=True)
            (directory / file).write_text(text)
        command = contender.command(site)
        if shutil.which(command[0]) is None:
            raise Absent("not installed")
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{directory}", "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            server = Running(contender, site, process)
            try:
                server.serving()
            except Absent:
                last = (directory / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                raise Absent(f"does not start: {last}") from None
            yield server
        finally:
            stop(process)


# ---- the scenarios, each with a server of its own; the figures by their names


def reloads(server: Running, count: int) -> dict[str, str]:
    starts: list[float] = []
    took: list[float] = []
    with Load(server.site.port) as load:
        began = time.monotonic()
        time.sleep(2.0)
        for _ in range(count):
            before = server.workers()
            starts.append(time.monotonic())
            server.hup()
            took.append(server.until_new(before))
            time.sleep(0.3)
        ended = time.monotonic()
        time.sleep(1.5)  # what leaves, leaves
    tally = load.tally
    rest = [latency for when, latency, _ in tally.answers if began + 0.5 < when < starts[0]]
    during = [latency for when, latency, _ in tally.answers if starts[0] <= when < ended]
    return {
        "reloads": f"{len(tally.failed)} / {tally.races} of {len(tally.answers)}",
        "p99": f"{percentile(rest):.1f} -> {percentile(during):.1f}",
        "new code": f"{median(took) * 1e3:.0f}",
    }


def percentile(latencies: Sequence[float]) -> float:
    """The 99th, in ms."""
    return sorted(latencies)[len(latencies) * 99 // 100] * 1e3 if latencies else float("nan")


def graceful(server: Running, _: int) -> dict[str, str]:
    ends: list[float] = []

    def ask() -> None:
        with suppress(OSError):
            server.ask(b"/slow")
            ends.append(time.monotonic())

    clients = [threading.Thread(target=ask) for _ in range(WORKERS)]
    for client in clients:
        client.start()
    time.sleep(0.2)
    told = time.monotonic()
    server.master.send_signal(server.contender.graceful)
    exits: list[float] = []

    def wait() -> None:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(PATIENCE)
            exits.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    refused = until_refused(server, told)
    for thread in (*clients, waiting):
        thread.join()
    if not exits:
        return {"stop": f"{len(ends)}/{len(clients)}, does not end"}
    after = (exits[0] - max(ends)) * 1e3 if ends else float("nan")
    return {
        "stop": f"{len(ends)}/{len(clients)}, refused {refused}, exit {server.process.returncode} after {after:.0f}"
    }


def until_refused(server: Running, told: float) -> str:
    """Milliseconds until a connection is refused; those that hang meanwhile are given up."""
    while time.monotonic() < told + SLOW + 2:
        try:
            socket.create_connection(("127.0.0.1", server.site.port), 0.02).close()
        except ConnectionRefusedError:
            return f"{(time.monotonic() - told) * 1e3:.0f}"
        except OSError:
            pass
        time.sleep(0.001)
    return "never"


def fast(server: Running, _: int) -> dict[str, str]:
    with socket.create_connection(("127.0.0.1", server.site.port), PATIENCE) as client:
        client.sendall(REQUEST % b"/slow")
        time.sleep(0.1)
        told = time.monotonic()
        server.master.send_signal(server.contender.fast)
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(PATIENCE)
        return {"fast stop": f"{time.monotonic() - told:.2f}" if not server.is_alive() else f"> {PATIENCE:g}"}


def kills(server: Running, _: int) -> dict[str, str]:
    back: list[float] = []
    with Load(server.site.port) as load:
        time.sleep(0.5)
        for _ in range(3):
            victim = server.serving().pop()
            alive = server.workers()
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            with suppress(Absent):
                server.until_new(alive, limit=5)
                back.append(time.monotonic() - killed)
            time.sleep(CALM)
    lost = f"{len(load.tally.failed) / 3:.1f} / {load.tally.races / 3:.1f}"
    return {"kill -9": f"{lost}, {f'{median(back) * 1e3:.0f}' if back else 'never'}"}


def broken(server: Running, _: int) -> dict[str, str]:
    source = server.site.directory / server.contender.source
    good = source.read_text()
    with Load(server.site.port) as load:
        time.sleep(0.3)
        source.write_text(BROKEN)
        server.hup()
        time.sleep(2.0)
        source.write_text(good)
        if not server.is_alive():
            return {"broken": "gone"}
        before = server.workers()
        server.hup()
        try:
            took = f"{server.until_new(before):.2f}"
        except Absent:
            took = "never"
        time.sleep(0.5)
    return {"broken": f"{len(load.tally.failed) + load.tally.races}, {took}" if server.is_alive() else "gone"}


def idle(server: Running, _: int) -> dict[str, str]:
    time.sleep(1.0)
    before = server.master.num_ctx_switches().voluntary
    time.sleep(5.0)
    return {"idle": f"{(server.master.num_ctx_switches().voluntary - before) / 5:.1f}"}


FIGURES = ("reloads", "p99", "new code", "stop", "fast stop", "kill -9", "broken", "idle")


SCENARIOS: dict[str, Callable[[Running, int], dict[str, str]]] = {
    "reloads": reloads,
    "stop": graceful,
    "fast stop": fast,
    "kill -9": kills,
    "broken": broken,
    "idle": idle,
}


def measure(contender: Contender, peers: Path, scenarios: Sequence[str], count: int) -> dict[str, str]:
    figures: dict[str, str] = {}
    for name in scenarios:
        try:
            with running(contender, peers) as server:
                figures |= SCENARIOS[name](server, count)
        except (Absent, psutil.Error, OSError) as reason:
            figures[name] = str(reason)
    print(f"{contender.name}: {figures}", file=sys.stderr)  # as all of it takes a while
    return figures


def table(results: dict[str, dict[str, str]]) -> str:
    rows = [["", *results], ["---", *("---" for _ in results)]]
    rows += [
        [figure, *(result.get(figure, "-") for result in results.values())]
        for figure in FIGURES
        if any(figure in result for result in results.values())
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", nargs="+", choices=names, metavar="NAME", default=names, help=", ".join(names))
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="FIGURE")
    parser.add_argument("--reloads", type=int, default=30)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers")
    options = parser.parse_args()
    results = {
        contender.name: measure(contender, options.peers, options.scenario, options.reloads)
        for contender in CONTENDERS
        if contender.name in options.server
    }
    print(table(results))


if __name__ == "__main__":
    main()
