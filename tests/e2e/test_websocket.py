"""WebSockets of an ASGI application behind the real server, with clients of their own making."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.conftest import Serve

APP = """
from tests.e2e.asgi_validator import Validator

async def application(scope, receive, send):
    if scope["type"] != "websocket":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})

app = Validator(application)
"""
CONFIG = """
[workers]
count = 1
graceful_timeout = 7
[websocket]
max_message = 4000000
[[route]]
path = "/"
asgi = "app:app"
"""


def test_a_hundred_clients_get_their_echo_and_are_told_of_a_stop(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    url = f"ws://127.0.0.1:{server.port}/"

    async def converse(ws: aiohttp.ClientWebSocketResponse, number: int) -> None:
        await ws.send_str(f"{number}" * 1000)
        assert (await ws.receive(10)).data == f"{number}" * 1000
        await ws.send_bytes(bytes([number]) * 100_000)
        assert (await ws.receive(20)).data == bytes([number]) * 100_000

    async def told(ws: aiohttp.ClientWebSocketResponse) -> int | None:
        assert (await ws.receive(15)).type is aiohttp.WSMsgType.CLOSE
        return ws.close_code

    async def clients() -> None:
        unlimited = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=unlimited) as session:
            open_ones = await asyncio.gather(*(session.ws_connect(url, compress=15) for _ in range(100)))
            await asyncio.gather(*(converse(ws, number) for number, ws in enumerate(open_ones)))
            server.signal(signal.SIGTERM)
            assert set(await asyncio.gather(*(told(ws) for ws in open_ones))) == {1012}

    asyncio.run(clients())
    assert server.wait_exit(15) == 0
    server.wait_log(r'"GET / HTTP/1.1" 101 \d+ ')


def test_a_message_beyond_the_bound_is_1009_and_the_server_goes_on(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    url = f"ws://127.0.0.1:{server.port}/"
    with connect(url, compression=None) as ws:
        with pytest.raises(ConnectionClosed):  # noqa: PT012 (sending may fail, or hearing)
            ws.send(bytes(4_000_001))
            ws.recv(10)
        assert ws.close_code == 1009
    with connect(url, max_size=None) as ws:
        ws.send(bytes(4_000_000))
        assert ws.recv(10) == bytes(4_000_000)
