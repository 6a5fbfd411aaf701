"""The servers under comparison: how each is started with one worker, what it costs. Owns their processes and files.

Every server gets the fastest of its own settings that still answers the same request: access log off, keep-alive on.
gunicorn stands as `pip install gunicorn` gives it, parsing in Python; its extra `fast`, a parser in C, makes its
threaded and ASGI workers a good deal faster, and is not measured.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from apps import BODY

BENCH = Path(__file__).resolve().parent
REPO = BENCH.parent.parent
FILE = b"x" * 1023 + b"\n"  # what the static case serves
START_TIMEOUT = 15.0  # seconds until a server has to accept
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL


class Absent(Exception):
    """A server has no figure; the message says why, in a line."""


@dataclass(frozen=True)
class Site:
    """Where one server is to run: its port, a directory of its own and the environment that holds the peers."""

    port: int
    directory: Path
    peers: Path

    def write(self, name: str, text: str) -> str:
        """Lay down a configuration file; the path of it."""
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Peer:
    """One server in one case; `serves` says what answers there, `command` writes its files and gives its argv."""

    name: str
    case: str
    serves: str
    command: Callable[[Site], list[str]]


@dataclass(frozen=True)
class Running:
    """A server that accepts on `port`: the process `pid` and all that came of it, on one core, or any (None)."""

    port: int
    pid: int
    core: int | None

    def cpu(self) -> dict[int, float]:
        """User and system seconds so far of each living process of the tree, by pid; Absent where one is off the core.

        Each process's own CPU clock is read (clock_getcpuclockid(3)): the sum over its threads, ended ones too, like
        utime and stime in /proc/PID/stat, but to the nanosecond where those are cut to ticks of 10 ms.
        """
        try:
            root = psutil.Process(self.pid)
            tree = [of for of in (root, *root.children(recursive=True)) if of.status() != psutil.STATUS_ZOMBIE]
            for thread in (thread.id for process in tree for thread in process.threads()):
                with suppress(ProcessLookupError):  # threads of a pool come and go
                    if self.core is not None and os.sched_getaffinity(thread) != {self.core}:
                        raise Absent(f"thread {thread} has left core {self.core}")
            return {process.pid: time.clock_gettime((~process.pid << 3) | 2) for process in tree}
        except (psutil.NoSuchProcess, OSError) as error:
            raise Absent(f"a process of it ended: {error}") from error

    def memory(self) -> float:
        """MiB of the process that has worked most: its share of what it has in memory (PSS in /proc/PID/smaps)."""
        seconds = self.cpu()
        return float(psutil.Process(max(seconds, key=seconds.__getitem__)).memory_full_info().pss / 2**20)


@contextmanager
def running(peer: Peer, peers: Path, core: int | None) -> Iterator[Running]:
    """The server, accepting, all of it on `core` unless that is None; stopped, and its files removed, at the end.
    Raises Absent.
    """
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx drops to a user of its own
        (directory / "public/static").mkdir(parents=True)
        (directory / "public/static/file.txt").write_bytes(FILE)
        log = directory / "log"
        site = Site(free_port(), directory, peers)
        with log.open("wb") as output:
            # A mask set before exec is inherited by every thread and child.
            process = subprocess.Popen(
                [*(["taskset", "-c", str(core)] if core is not None else []), *peer.command(site)],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{BENCH}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until_accepting(site.port, process, log)
            yield Running(site.port, process.pid, core)
        finally:
            stop(process)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_accepting(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), "no word of why")
            raise Absent(f"does not start (exit status {process.returncode}): {reason}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Absent(f"does not accept after {START_TIMEOUT:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server; SIGKILL to whatever of its session is there once it has left, or at the deadline."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def prefork(route: str, *settings: str, workers: int = 1) -> Callable[[Site], list[str]]:
    """prefork with one worker, or so many, this route and these settings, such as `workers.connections = 10`."""

    def command(site: Site) -> list[str]:
        first = [f'listen = ["127.0.0.1:{site.port}"]', f"workers.count = {workers}", 'log.access = ""']
        config = "\n".join([*first, *settings, "[[route]]", route, ""])
        return [sys.executable, "-m", "prefork", "start", "-c", site.write("server.toml", config)]

    return command


def gunicorn(app: str, *options: str) -> Callable[[Site], list[str]]:
    """gunicorn; without options its own default, one sync worker. The control socket would be left behind in $HOME."""

    def command(site: Site) -> list[str]:
        program = str(site.peers / "bin/gunicorn")
        return [program, "--no-control-socket", "-w", "1", "-b", f"127.0.0.1:{site.port}", *options, app]

    return command


def uvicorn(app: str, *options: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        common = "--loop uvloop --http httptools --no-access-log --no-proxy-headers --log-level warning"
        return [str(site.peers / "bin/uvicorn"), "--port", str(site.port), *common.split(), *options, app]

    return command


def granian(app: str, *options: str) -> Callable[[Site], list[str]]:
    """granian; no other thread or runtime setting tried was faster than these by more than the noise."""

    def command(site: Site) -> list[str]:
        common = "--workers 1 --runtime-mode st --http 1 --no-ws --no-log"
        port = ["--port", str(site.port)]
        return [str(site.peers / "bin/granian"), *port, *common.split(), *options, app]

    return command


def bjoern(site: Site) -> list[str]:
    program = f"import apps, bjoern; bjoern.run(apps.hello, '127.0.0.1', {site.port})"
    return [str(site.peers / "bin/python"), "-c", program]


def nginx(location: str) -> Callable[[Site], list[str]]:
    """nginx with one worker process and this location block."""

    def command(site: Site) -> list[str]:
        temporary = " ".join(f"{of}_temp_path temp;" for of in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = f"""
            daemon off; worker_processes 1; pid nginx.pid; error_log stderr;
            events {{ worker_connections 4096; }}
            http {{
                {temporary}
                access_log off; default_type text/plain; keepalive_requests 1000000000;
                server {{ listen 127.0.0.1:{site.port}; location / {{ {location} }} }}
            }}"""
        return ["nginx", "-e", "stderr", "-p", str(site.directory), "-c", site.write("nginx.conf", config)]

    return command


def threaded(app: str, threads: int, route: str = "") -> tuple[Peer, ...]:
    """The servers that run a WSGI application in so many threads of one worker, prefork first, which may have another
    route beside.
    """
    routes = f'path = "/"\nwsgi = "{app}"' + (f"\n[[route]]\n{route}" if route else "")
    case, serves = "threads", f"WSGI, {threads} threads"
    gthread = gunicorn(app, "-k", "gthread", "--threads", str(threads))
    blocking = granian(app, "--interface", "wsgi", "--blocking-threads", str(threads))
    return (
        Peer("prefork", case, serves, prefork(routes, f"workers.threads = {threads}")),
        Peer("gunicorn-gthread", case, serves, gthread),
        Peer("granian", case, serves, blocking),
    )


def asynchronous(app: str) -> tuple[Peer, ...]:
    """The servers that run an ASGI application in one worker, prefork first."""
    return (
        Peer("prefork", "loop", "ASGI", prefork(f'path = "/"\nasgi = "{app}"')),
        Peer("uvicorn", "loop", "ASGI, uvloop + httptools", uvicorn(app)),
        Peer("granian", "loop", "ASGI", granian(app, "--interface", "asgi")),
    )


TEXT = BODY.decode().replace("\n", "\\n")
NGINX_RETURN = nginx(f'return 200 "{TEXT}";')
NGINX_FILES = nginx("root public; sendfile on; tcp_nopush on; open_file_cache max=1000 inactive=60s;")

HELLO = 'path = "/"\nwsgi = "apps:hello"'
HELLO_ASGI = 'path = "/"\nasgi = "apps:hello_asgi"'
BESIDE_ASGI = 'path = "/asgi"\nasgi = "apps:hello_asgi"'
FASTAPI = 'path = "/"\nasgi = "apps_fastapi:app"'
GRANIAN_WSGI = granian("apps:hello", "--interface", "wsgi", "--blocking-threads", "1")
GRANIAN_FILES = ("--interface", "wsgi", "--blocking-threads", "1", "--static-path-mount", "public/static")

PEERS = (
    Peer("prefork", "wsgi", "WSGI", prefork(HELLO)),
    Peer("gunicorn", "wsgi", "WSGI, sync (its default)", gunicorn("apps:hello")),
    Peer("gunicorn-gthread", "wsgi", "WSGI, 8 threads", gunicorn("apps:hello", "-k", "gthread", "--threads", "8")),
    Peer("gunicorn-asgi", "wsgi", "ASGI", gunicorn("apps:hello_asgi", "-k", "asgi")),
    Peer("uvicorn", "wsgi", "ASGI, uvloop + httptools", uvicorn("apps:hello_asgi")),
    Peer("granian", "wsgi", "WSGI", GRANIAN_WSGI),
    Peer("bjoern", "wsgi", "WSGI", bjoern),
    Peer("nginx", "wsgi", "`return 200`", NGINX_RETURN),
    Peer("prefork", "asgi", "ASGI", prefork(HELLO_ASGI)),
    Peer("uvicorn", "asgi", "ASGI, uvloop + httptools", uvicorn("apps:hello_asgi")),
    Peer("granian", "asgi", "ASGI", granian("apps:hello_asgi", "--interface", "asgi")),
    Peer("gunicorn-asgi", "asgi", "ASGI", gunicorn("apps:hello_asgi", "-k", "asgi")),
    Peer("prefork", "fastapi", "ASGI", prefork(FASTAPI)),
    Peer("uvicorn", "fastapi", "ASGI, uvloop + httptools", uvicorn("apps_fastapi:app")),
    Peer("granian", "fastapi", "ASGI", granian("apps_fastapi:app", "--interface", "asgi")),
    Peer("prefork", "respond", "`respond`", prefork(f'path = "/"\nrespond = {{ body = "{TEXT}" }}')),
    Peer("nginx", "respond", "`return 200`", NGINX_RETURN),
    Peer("prefork", "static", "`files`", prefork('path = "/static/"\nfiles = { root = "public/static" }')),
    Peer("granian", "static", "its static mount", granian("apps:hello", *GRANIAN_FILES)),
    Peer("nginx", "static", "sendfile, open_file_cache", NGINX_FILES),
)
