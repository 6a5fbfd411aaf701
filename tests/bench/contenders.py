"""The servers whose lifecycles are compared: how each is started with two workers, reloaded, and stopped at once.

Each serves "/", which tells the pid of the worker, and "/slow", which takes SLOW seconds and tells it then. For nginx
both are configuration, and what it reloads is that.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SLOW = 0.5  # seconds
WORKERS = 2
REPO = Path(__file__).resolve().parent.parent.parent

WSGI = f"""
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep({SLOW})
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
ASGI = f"""
import asyncio, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep({SLOW})
    body = b"%d" % os.getpid()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}})
    await send({{"type": "http.response.body", "body": body}})
"""
BROKEN = "this is no program: {\n"


@dataclass(frozen=True)
class Site:
    """Where a contender runs: its directory, its port, the environment that holds the peers."""

    directory: Path
    port: int
    peers: Path

    def program(self, name: str) -> str:
        return str(self.peers / "bin" / name)


@dataclass(frozen=True)
class Contender:
    """`files` are laid into the directory; `source` is the one that a reload reads, and that is broken for a while."""

    name: str
    command: Callable[[Site], list[str]]
    files: Callable[[Site], dict[str, str]]
    source: str = "app.py"
    fast: signal.Signals = signal.SIGINT  # stops at once, as far as it can
    graceful: signal.Signals = signal.SIGTERM


def _wsgi(site: Site) -> dict[str, str]:
    return {"app.py": WSGI}


def _asgi(site: Site) -> dict[str, str]:
    return {"app.py": ASGI}


def _prefork_files(source: str, key: str, extra: str = "") -> Callable[[Site], dict[str, str]]:
    def files(site: Site) -> dict[str, str]:
        config = f"""
listen = ["127.0.0.1:{site.port}"]
[workers]
count = {WORKERS}
{extra}
[log]
access = ""
[[route]]
path = "/"
{key} = "app:app"
"""
        return {"app.py": source, "server.toml": config}

    return files


def _prefork(site: Site) -> list[str]:
    return [sys.executable, "-m", "prefork", "start", "-c", "server.toml"]


def _gunicorn(*options: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        bind = ["-w", str(WORKERS), "-b", f"127.0.0.1:{site.port}", "--no-control-socket"]
        return [site.program("gunicorn"), *bind, *options, "app:app"]

    return command


def _uvicorn(site: Site) -> list[str]:
    common = ["--workers", str(WORKERS), "--port", str(site.port), "--no-access-log", "--log-level", "warning"]
    return [site.program("uvicorn"), *common, "app:app"]


def _granian(site: Site) -> list[str]:
    common = ["--workers", str(WORKERS), "--port", str(site.port), "--interface", "wsgi", "--http", "1", "--no-ws"]
    return [site.program("granian"), *common, "app:app"]


def _hypercorn(site: Site) -> list[str]:
    return [site.program("hypercorn"), "-w", str(WORKERS), "-b", f"127.0.0.1:{site.port}", "app:app"]


def _nginx(site: Site) -> list[str]:
    return ["nginx", "-e", "stderr", "-p", str(site.directory), "-c", "nginx.conf"]


def _nginx_files(site: Site) -> dict[str, str]:
    rate = 64 * 1024
    temporary = " ".join(f"{of}_temp_path temp;" for of in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = f"""
daemon off; worker_processes {WORKERS}; pid nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
    {temporary}
    access_log off; default_type text/plain; keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{site.port};
        location / {{ return 200 "$pid"; }}
        location /slow {{ root files; limit_rate {rate}; }}
    }}
}}
"""
    return {"nginx.conf": config, "files/slow": "x" * int(rate * (1 + SLOW))}  # the first second's worth goes at once


CONTENDERS = (
    Contender("prefork", _prefork, _prefork_files(WSGI, "wsgi")),
    Contender("prefork ASGI", _prefork, _prefork_files(ASGI, "asgi")),
    Contender("gunicorn sync", _gunicorn(), _wsgi, fast=signal.SIGQUIT),
    Contender("gunicorn gthread", _gunicorn("-k", "gthread", "--threads", "8"), _wsgi, fast=signal.SIGQUIT),
    Contender("gunicorn asgi", _gunicorn("-k", "asgi"), _asgi, fast=signal.SIGQUIT),
    Contender("uvicorn", _uvicorn, _asgi),
    Contender("granian", _granian, _wsgi),
    Contender("hypercorn", _hypercorn, _asgi),
    Contender("nginx", _nginx, _nginx_files, source="nginx.conf", fast=signal.SIGTERM, graceful=signal.SIGQUIT),
)
