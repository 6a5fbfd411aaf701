"""How long a thread that computes may keep the interpreter from the one that runs the loop."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Serve

SHORT = 0.0005  # seconds; the interpreter's own is 0.005
APP = """
import json
import sys


def told():
    return json.dumps(sys.getswitchinterval()).encode()


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [told()]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        return await send({"type": "lifespan.startup.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": told()})
"""
WSGI = '[[route]]\npath = "/wsgi"\nwsgi = "app:wsgi"\n'
ASGI = '[[route]]\npath = "/asgi"\nasgi = "app:asgi"\n'
WORKERS = "workers.count = 1\n"
PRELOAD = "workers.preload = true\n"


def intervals(serve: Serve, routes: str, app: str = APP) -> set[float]:
    """What each of the routes' applications is told, in seconds."""
    server = serve(WORKERS + routes, files={"app.py": app})
    return {json.loads(server.get(path).body) for path in ("/wsgi", "/asgi") if path in routes}


@pytest.mark.parametrize(
    "routes",
    [WSGI, ASGI, WSGI + ASGI, PRELOAD + ASGI],
    ids=["wsgi", "asgi", "both", "preloaded"],
)
def test_a_thread_that_computes_gives_way_soon(serve: Serve, routes: str) -> None:
    assert intervals(serve, routes) == {SHORT}


@pytest.mark.parametrize("more", ["", PRELOAD], ids=["imported", "preloaded"])
def test_an_application_may_have_another_interval(serve: Serve, more: str) -> None:
    assert intervals(serve, more + WSGI + ASGI, f"import sys; sys.setswitchinterval(0.02)\n{APP}") == {0.02}
