"""Applications that use asyncio for all that it can do, in a loop that is a guest in ours."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import eventually, needs
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CONFIG = """
workers.count = 1
[[route]]
path = "/"
asgi = "tests.e2e.asyncio_app:app"
"""
OWN_CERTIFICATE = [
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
    *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
    *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
]


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    server = serve_module(CONFIG)
    yield server
    assert get(server, "/complaints") == []
    assert "error:" not in server.stderr


def get(server: Server, path: str) -> Any:
    return httpx.get(f"http://127.0.0.1:{server.port}{path}", timeout=20).json()


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/same_loop", [True, True]),  # one that was asked for at import, whatever policy was set there
        ("/lock", 1),
        ("/timers", ["soon", "sooner", "later"]),
        ("/timeout", "timed out"),
        ("/process", ["cba\n", 0, 7]),
        ("/threads", [True, False, "back"]),
        ("/streams", ["HELLO\n", True]),
        ("/groups", ["first", "second", "third cancelled", "sibling cancelled", "from a thread"]),
        ("/signals", "signals are the server's: an application under prefork cannot add a signal handler"),
    ],
)
def test_asyncio_does_what_it_does_elsewhere(server: Server, path: str, result: Any) -> None:
    for _ in range(2):
        assert get(server, path) == result


def test_task_goes_on_beyond_its_request_and_wakes_another(server: Server) -> None:
    assert get(server, "/beyond") == "answered"
    assert get(server, "/queue") == "from a task of another request"
    eventually(lambda: get(server, "/later") == ["done"])


def test_tls_client_and_server_in_the_application(server: Server) -> None:
    needs("openssl")
    directory: Path = server.directory
    command = [*OWN_CERTIFICATE, "-keyout", directory / "key.pem", "-out", directory / "certificate.pem"]
    subprocess.run(command, check=True, capture_output=True)
    assert get(server, "/tls") == [[200, 300_000]] * 3
    assert get(server, "/files").startswith("-----BEGIN CERTIFICATE")


def test_context_variables_of_requests_at_once_are_apart(server: Server) -> None:
    async def ask() -> list[Any]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
            answers = await asyncio.gather(*(client.get(f"/context?{number}") for number in range(30)))
            again = [await client.get("/context?again") for _ in range(2)]  # on one connection
            return [answer.json() for answer in [*answers, *again]]

    assert asyncio.run(ask()) == [["nobody", name] for name in [*map(str, range(30)), "again", "again"]]


@pytest.mark.parametrize("preload", ["false", "true"])
@pytest.mark.parametrize("key", ["app", "asgi"])
def test_subprocesses_run_whatever_policy_the_application_has_set_when_it_was_imported(
    serve: Serve, key: str, preload: str
) -> None:
    """By the key `app` it is imported before anybody knows that there will be an asyncio loop."""
    pytest.importorskip("uvloop")
    app = """
import asyncio, uvloop
uvloop.install()
asyncio.set_event_loop(asyncio.new_event_loop())

async def app(scope, receive, send):
    process = await asyncio.create_subprocess_exec("echo", "fine", stdout=asyncio.subprocess.PIPE)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": (await process.communicate())[0]})
"""
    route = f'[workers]\ncount = 1\npreload = {preload}\n[[route]]\n{key} = "app:app"\nlifespan = "off"\n'
    server = serve(route, {"app.py": app})
    assert server.get("/").body == b"fine\n"
