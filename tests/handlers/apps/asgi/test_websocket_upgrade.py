"""Which requests of an ASGI application are WebSockets, and which are ordinary ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.handlers.apps.asgi.exchange import answer, meet
from tests.handlers.exchange import parse, request

FIELDS = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
NEED_IT = {
    f"prefork.{name}"
    for name in ("handlers.apps.asgi.websocket", "http.websocket.handshake", "http.websocket.protocol")
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    elif scope["type"] == "http":
        await answer(send, b"an ordinary request")


def status(*fields: str, version: str = "HTTP/1.1", method: str = "GET") -> int:
    """200 is an ordinary request's; 403 a WebSocket's."""
    asked = request("/", *FIELDS, *fields, version=version, method=method)
    return parse(meet(application, asked, lifespan=True)[0]).status


@pytest.mark.parametrize(
    "fields",
    [
        ("Upgrade: websocket", "Connection: Upgrade"),
        ("Upgrade: WebSocket", "Connection: keep-alive, upgrade"),
        ("Upgrade: h2c, websocket", "Connection: Upgrade, HTTP2-Settings"),
        ("Upgrade: h2c", "Upgrade: websocket", "Connection: keep-alive", "Connection: Upgrade"),
    ],
)
def test_request_that_names_websocket_among_others_is_one(fields: tuple[str, ...]) -> None:
    assert status(*fields) == 403


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        (("Upgrade: websocket", "Connection: Upgrade"), "HTTP/1.0"),
        (("Upgrade: websocket",), "HTTP/1.1"),
        (("Upgrade: websocket", "Connection: keep-alive"), "HTTP/1.1"),
        (("Upgrade: h2c", "Connection: Upgrade"), "HTTP/1.1"),
        (("Upgrade: websockets", "Connection: Upgrade"), "HTTP/1.1"),
    ],
)
def test_request_that_does_not_ask_for_it_is_an_ordinary_one(fields: tuple[str, ...], version: str) -> None:
    assert status(*fields, version=version) == 200


def test_websocket_by_another_method_than_get_is_refused() -> None:
    assert status("Upgrade: websocket", "Connection: Upgrade", method="POST") == 400


class _Without:
    """An import finder that does not find `websockets`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "websockets":
            raise ModuleNotFoundError("No module named 'websockets'", name=name)


def test_websocket_without_the_package_is_a_501_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in tuple(sys.modules):
        if name.startswith("websockets") or name in NEED_IT:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(), *sys.meta_path])
    assert status("Upgrade: websocket", "Connection: Upgrade") == 501
    assert "is not installed: pip install websockets" in caplog.text
    assert status() == 200  # and the rest goes on
