"""A real FastAPI application and what stays open, events and WebSockets; and what a reload and a stop make of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import eventually
from tests.e2e.asgi_sites import ask, without_complaints
from tests.e2e.chromium import Chromium, chromium
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server
from tests.e2e.test_chromium import result

__all__ = ["chromium"]

CONFIG = """
[workers]
count = 1
graceful_timeout = 10
[[route]]
path = "/"
asgi = "tests.e2e.fastapi_app:app"
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    with without_complaints(serve_module(CONFIG)) as server:
        yield server


def dial(server: Server, path: str, **how: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=10, **how)


@contextmanager
def listening(
    server: Server, path: str, question: dict[str, str] | None = None
) -> Iterator[tuple[httpx.Response, Callable[[], str]]]:
    """The head of an event stream, which is here before any event, and how to hear the next event's data. With a
    question, which is its JSON, it is asked for by POST.
    """
    method = "GET" if question is None else "POST"
    with httpx.stream(method, f"http://127.0.0.1:{server.port}{path}", json=question, timeout=15) as stream:
        lines = stream.iter_lines()
        yield stream, lambda: next(line for line in lines if line.startswith("data: "))


def told(server: Server, what: str) -> None:
    eventually(lambda: what in ask(server, "/told").json(), what=what)


def test_events_arrive_one_by_one_behind_a_head_that_does_not_wait_for_the_first(server: Server) -> None:
    with listening(server, "/events/three") as (stream, event):
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        for number in range(3):
            ask(server, "/open/three")
            assert event() == f"data: event {number}"
        with pytest.raises(StopIteration):
            event()
    told(server, "three closed")


def test_client_that_hangs_up_ends_the_generator(server: Server) -> None:
    for gate, question in (("left", None), ("unanswered", {"count": "1000"})):
        with listening(server, f"/events/{gate}?count=1000", question) as (_, event):
            ask(server, f"/open/{gate}")
            event()
        told(server, f"{gate} closed")  # which waits for its gate, so it is not by sending that it learns it


def test_websocket_echoes_text_and_bytes_and_hears_how_the_client_closes(server: Server) -> None:
    with dial(server, "/echo") as ws:
        for message in ("grüße", b"\x00\xff" * 50_000, "", b""):
            ws.send(message)
            assert ws.recv(10) == message
        ws.close(4002, "enough")
    told(server, "echo left: 4002 enough")
    with dial(server, "/echo") as ws:
        ws.socket.close()
    told(server, "echo left: 1006 ")


def test_websocket_speaks_json_with_parameters_and_a_subprotocol(server: Server) -> None:
    with dial(server, "/json/kitchen?token=t", subprotocols=["v1", "v2"]) as ws:
        assert ws.subprotocol == "v2"
        ws.send('{"a": [1, "ü"]}')
        assert ws.recv(10) == '{"room":"kitchen","token":"t","got":{"a":[1,"ü"]}}'
        ws.send('"enough"')
        ws.recv(10)
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/denied", 403, None),
        ("/denied?how=response", 401, b'{"why":"no token"}'),
        ("/denied?how=raise", 404, b'{"detail":"Not Found"}'),
        ("/nothing", 403, None),
    ],
)
def test_websocket_is_denied_with_an_answer(server: Server, path: str, status: int, body: bytes | None) -> None:
    with pytest.raises(InvalidStatus) as denied:
        dial(server, path)
    answer = denied.value.response
    assert answer.status_code == status
    assert body is None or answer.body == body
    assert ask(server, "/any").json() == "GET"


def test_chromium_echoes_over_a_websocket_and_hears_events(server: Server, chromium: Chromium) -> None:
    dom = chromium.dom(f"http://127.0.0.1:{server.port}/page", milliseconds=0)
    assert result(dom) == "20 echoes, closed 3001 true; events 0,1,2,3,4"
    told(server, "echo left: 3001 done")
    told(server, "chromium closed")


def test_reload_lets_event_streams_end_and_tells_websockets(serve: Serve) -> None:
    server = serve(CONFIG)
    before = {worker.pid for worker in server.workers()}
    with listening(server, "/events/reload?count=60&pause=0.02") as (_, event), dial(server, "/echo") as ws:
        assert event() == "data: event 0"
        server.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert ws.close_code == 1012
        with dial(server, "/echo") as fresh:
            fresh.send("new")
            assert fresh.recv(10) == "new"
            assert [event() for _ in range(59)][-1] == "data: event 59"
            eventually(lambda: len(server.workers()) == 1, what="the end of the old worker")
            assert before.isdisjoint(worker.pid for worker in server.workers())
            fresh.send("still here")
            assert fresh.recv(10) == "still here"


def test_stop_waits_for_streams_and_background_work_and_cuts_what_has_no_end(serve: Serve) -> None:
    """In this order: the client of the short stream has all of it, the late work is done, the endless one is cut, its
    generator closed, and the lifespan shut down.
    """
    server = serve(CONFIG.replace("graceful_timeout = 10", "graceful_timeout = 2.5"))
    with (
        listening(server, "/events/short?count=20&pause=0.02") as (_, short),
        listening(server, "/events/endless?count=1000000&pause=0.05") as (_, endless),
        dial(server, "/echo") as ws,
    ):
        assert (short(), endless()) == ("data: event 0", "data: event 0")
        assert ask(server, "/late").json() == "answered"
        server.signal(signal.SIGTERM)
        assert [short() for _ in range(19)][-1] == "data: event 19"
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert ws.close_code == 1012
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):  # noqa: PT012 (it is not the first)
            while True:
                endless()
    assert server.wait_exit() == 0
    assert (server.directory / "endless.closed").exists()
    assert (server.directory / "shutdown.log").read_text() == "late work\nshut down\n"
    server.wait_log(r"not done within .*GET /events/endless")
