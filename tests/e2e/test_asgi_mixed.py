"""Applications of several frameworks in one server, WSGI beside ASGI, told apart by path and by host."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import aiohttp
import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.asgi_sites import ask, client, without_complaints
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

__all__ = ["client"]

CONFIG = """
workers.count = 1
workers.graceful_timeout = 5
[[route]]
path = "/"
asgi = "tests.e2e.quart_app:app"
[[route]]
host = "fast.example"
asgi = "tests.e2e.fastapi_app:app"
[[route]]
host = "*.example.org"
app = "tests.e2e.starlette_app:app"
[[route]]
host = "star.example"
app = "tests.e2e.starlette_app:app"
[[route]]
path = "/flask"
app = "flask_app:app"
[[route]]
host = "fast.example"
path = "/flask"
wsgi = "flask_app:app"
"""
FLASK = """
import threading
from flask import Flask, request
app = Flask(__name__)
barrier = threading.Barrier(2)

@app.route("/")
def index():
    return f"{request.script_root} on {request.host}"

@app.route("/meet")
def meet():
    barrier.wait(10)
    return "met"
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    hosts = ("", "fast.example", "star.example")
    with without_complaints(serve_module(CONFIG, {"flask_app.py": FLASK}), hosts) as server:
        yield server


def test_host_and_path_tell_the_applications_apart(server: Server) -> None:
    assert ask(server, "/visits").text == "1"
    assert ask(server, "/any", "fast.example").json() == "GET"
    assert ask(server, "/", "shop.example.org").text == "shop shop.example.org"
    assert ask(server, "/flask/", "fast.example").text == "/flask on fast.example"
    assert ask(server, "/flask/", "elsewhere").text == "/flask on elsewhere"


def test_each_application_has_a_lifespan_of_its_own(server: Server) -> None:
    assert "before serving" in ask(server, "/told").json()
    assert ask(server, "/state", "fast.example").json()["app"] == "start"
    eventually(lambda: "tick" in ask(server, "/told", "star.example").json())


def test_wsgi_calls_that_block_stop_neither_each_other_nor_asgi(server: Server) -> None:
    async def calls() -> list[str]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
            first = asyncio.create_task(client.get("/flask/meet"))
            assert (await client.get("/stream")).text.split()[-1] == "19"
            return [answer.text for answer in await asyncio.gather(first, client.get("/flask/meet"))]

    assert asyncio.run(calls()) == ["met", "met"]


def test_quart_reads_forms_and_streams_and_keeps_sessions(client: httpx.Client) -> None:
    answer = client.post("/echo", data={"a": "ü"}, files={"f": b"x" * 1_000_000})
    assert answer.json() == {"form": {"a": "ü"}, "files": {"f": 1_000_000}}
    assert client.post("/count", content=iter([b"x" * 100_000] * 20)).text == "2000000"
    assert [client.get("/visits").text for _ in range(2)] == ["1", "2"]
    assert client.get("/stream").text.split() == [str(number) for number in range(20)]


def test_quart_speaks_websocket_and_denies_it(server: Server) -> None:
    async def converse() -> None:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            async with session.ws_connect("/ws") as ws:
                await ws.send_str("ü")
                assert await ws.receive_str(timeout=10) == "got ü"
            with pytest.raises(aiohttp.WSServerHandshakeError) as denied:
                await session.ws_connect("/denied")
            assert denied.value.status == 401

    asyncio.run(converse())
    eventually(lambda: "ws over" in ask(server, "/told").json())


def test_quart_finishes_its_background_task_before_it_shuts_down(serve: Serve) -> None:
    server = serve(CONFIG, {"flask_app.py": FLASK})
    assert ask(server, "/background").text == "answered"
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    log = (server.directory / "quart.log").read_text().splitlines()
    assert log == ["before serving", "background done", "after serving"]
    assert (server.directory / "shutdown.log").read_text() == "shut down\n"
