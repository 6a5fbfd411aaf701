"""The real server with ASGI applications: lifespans, reloads, stops, and what stays out of workers without any."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.e2e.conftest import Serve

CONFIG = """
workers.count = 1
workers.graceful_timeout = 5
[[route]]
path = "/"
asgi = "app:app"
"""
APP = """
import asyncio, sys
from tests.e2e.asgi_validator import Validator

async def lifespan(scope, receive, send):
    await receive()
    scope["state"]["greeting"] = b"hello"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shut down", file=sys.stderr, flush=True)
    await send({"type": "lifespan.shutdown.complete"})

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        for number in range(30):
            await send({"type": "http.response.body", "body": b"%d\\n" % number, "more_body": True})
            await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": scope["state"]["greeting"]})
    if scope["path"] == "/background":
        await asyncio.sleep(0.5)
        print("background done", file=sys.stderr, flush=True)

app = Validator(application)
"""
STREAM = b"".join(b"%d\n" % number for number in range(30)) + b"hello"


def test_state_of_the_lifespan_reaches_requests_and_a_stop_shuts_it_down_after_background_work(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    assert server.get("/").body == b"hello"
    assert server.get("/background").body == b"hello"
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert 0 < server.stderr.index("background done") < server.stderr.index("shut down")


def test_reload_and_stop_in_mid_stream_lose_nothing(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    for command in ("reload", "stop"):
        curl = ["curl", "-sS", "-N", f"http://127.0.0.1:{server.port}/stream"]
        with subprocess.Popen(curl, stdout=subprocess.PIPE) as client:
            assert client.stdout
            begun = client.stdout.readline()
            assert server.command(command).returncode == 0
            assert begun + client.stdout.read() == STREAM
        assert client.returncode == 0


def test_lifespan_that_fails_at_a_reload_keeps_the_old_workers(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    broken = APP.replace("    scope[", "    raise ValueError('no database')\n    scope[", 1)
    (server.directory / "app.py").write_text(broken)
    failed = server.command("reload")
    assert failed.returncode == 1
    assert re.search(
        r"cannot boot: the application's lifespan failed to start: ValueError\('no database'\)", failed.stderr
    )
    assert "no database" in failed.stderr
    assert server.get("/").body == b"hello"


def test_application_that_raises_at_its_startup_can_be_served_without_a_lifespan(serve: Serve) -> None:
    app = """
async def app(scope, receive, send):
    message = await receive()
    if message["type"] != "http.request":
        raise ValueError("requests alone, please")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(scope["state"]).encode()})
"""
    server = serve(CONFIG + 'lifespan = "off"\n', {"app.py": app})
    assert server.get("/").body == b"{}"
    server.config.write_text(server.config.read_text().replace('lifespan = "off"', ""))
    failed = server.command("reload")
    assert failed.returncode == 1
    assert "requests alone, please" in failed.stderr
    assert 'write lifespan = "off" in its route' in failed.stderr
    assert server.get("/").body == b"{}"


def test_worker_without_asgi_does_not_import_asyncio(serve: Serve) -> None:
    app = """
import sys

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"asyncio" if "asyncio" in sys.modules else b"none"]
"""
    server = serve('[[route]]\npath = "/"\nwsgi = "app:app"\n', {"app.py": app})
    assert server.get("/").body == b"none"


@pytest.mark.parametrize("key", ["asgi", "app"])
def test_worker_finds_asyncio_imported_by_the_master_once_that_knows_of_an_asgi_application(
    serve: Serve, key: str
) -> None:
    app = """
import sys
before = repr("asyncio" in sys.modules).encode()

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": before})
"""
    route = f'[[route]]\npath = "/"\n{key} = "app:app"\nlifespan = "off"\n'
    server = serve("workers.count = 1\n" + route, {"app.py": app})
    assert server.get("/").body == (b"True" if key == "asgi" else b"False")
    assert server.command("reload").returncode == 0
    assert server.get("/").body == b"True"


def test_logging_that_an_application_sets_up_late_does_not_silence_the_error_log(serve: Serve) -> None:
    app = """
import logging, logging.config, sys

def set_up():
    logging.config.dictConfig({"version": 1})  # which disables all loggers that there are
    logging.disable(logging.CRITICAL)
    sys.stderr.close()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        set_up()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    elif scope["path"] == "/set-up":
        set_up()
    raise ValueError("on purpose")
"""
    server = serve(CONFIG, {"app.py": app})
    for path in ("/before", "/set-up", "/after"):
        assert server.get(path).status == 500
        server.wait_log(f"error: GET {path} failed: ValueError")


def test_wsgi_beside_asgi(serve: Serve) -> None:
    app = (
        APP
        + """
def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi"]
"""
    )
    server = serve(CONFIG + '[[route]]\npath = "/wsgi"\nwsgi = "app:wsgi"\n', {"app.py": app})
    assert (server.get("/").body, server.get("/wsgi").body) == (b"hello", b"wsgi")
