"""A real Starlette application over HTTP: each response class, each way to read a request, each kind of route."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import eventually
from tests.e2e.asgi_sites import client, without_complaints
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

__all__ = ["client"]

CONFIG = """
workers.count = 1
[[route]]
path = "/"
app = "tests.e2e.starlette_app:app"
"""
CONTENT = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    with without_complaints(serve_module(CONFIG)) as server:
        yield server


def told(client: httpx.Client, what: str) -> None:
    eventually(lambda: what in client.get("/told").json(), what=what)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("kind", "status", "content_type", "body"),
    [
        ("plain", 200, "text/plain; charset=utf-8", "grüße"),
        ("html", 200, "text/html; charset=utf-8", "<p>ü"),
        ("json", 201, "application/json", '{"ü":[1,null]}'),
        ("redirect", 307, None, ""),
        ("empty", 204, None, ""),
        ("other", 410, "text/plain; charset=utf-8", "gone"),
    ],
)
def test_each_kind_of_response(
    client: httpx.Client, method: str, kind: str, status: int, content_type: str | None, body: str
) -> None:
    answer = client.request(method, f"/kinds/{kind}")
    assert (answer.status_code, answer.headers.get("content-type")) == (status, content_type)
    assert answer.text == (body if method == "GET" else "")
    length = None if status == 204 else str(len(body.encode()))
    assert answer.headers.get("content-length") == length


def test_fields_and_locations_are_the_applications(client: httpx.Client) -> None:
    assert client.get("/kinds/json").headers["x-own"] == "1"
    assert client.get("/kinds/other").headers["x-why"] == "gone"
    assert client.get("/kinds/redirect").headers["location"] == "/kinds/plain?%C3%BC"
    assert client.get("/kinds/redirect", follow_redirects=True).text == "grüße"


def test_task_behind_a_response_is_done(client: httpx.Client) -> None:
    assert client.get("/kinds/task").text == "first"
    told(client, "then")


def test_file_is_sent_whole_in_part_or_not_at_all(client: httpx.Client) -> None:
    whole = client.get("/file")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert "big.bin" in whole.headers["content-disposition"]
    head = client.head("/file")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    part = client.get("/file", headers={"Range": "bytes=1000-300999"})
    assert (part.status_code, part.content) == (206, CONTENT[1000:301_000])
    assert part.headers["content-range"] == f"bytes 1000-300999/{len(CONTENT)}"
    several = client.get("/file", headers={"Range": "bytes=0-9, -10"})
    assert several.headers["content-type"].startswith("multipart/byteranges")
    assert CONTENT[:10] in several.content
    assert client.get("/file", headers={"Range": f"bytes={len(CONTENT)}-"}).status_code == 416
    stale = client.get("/file", headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, len(CONTENT))


def test_static_file_is_not_sent_again(client: httpx.Client) -> None:
    style = client.get("/static/style.css")
    assert (style.text, style.headers["content-type"]) == ("p {}", "text/css; charset=utf-8")
    again = client.get("/static/style.css", headers={"If-None-Match": style.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/nothing").status_code == 404
    assert client.get("/static/%2e%2e/big.bin").status_code == 404


def test_body_is_read_in_each_way(client: httpx.Client) -> None:
    data = os.urandom(3_000_000)

    def chunked() -> Iterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]

    assert client.post("/body/stream", content=data).json() == len(data)
    assert client.post("/body/stream", content=chunked()).json() == len(data)
    assert client.post("/body/body", content=chunked()).content == data
    assert client.post("/body/form", data={"a": "ü&="}).json() == {"a": "ü&="}
    assert client.post("/body/form", data={"a": "b"}, files={"f": data}).json() == {"a": "b", "f": len(data)}
    assert client.post("/body/form", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400


def test_body_is_mirrored_while_it_arrives(client: httpx.Client) -> None:
    data = os.urandom(3_000_000)
    assert client.post("/mirror", content=data).content == data


def test_application_that_polls_learns_of_a_hang_up(server: Server, client: httpx.Client) -> None:
    with server.connect() as leaving:
        leaving.sendall(b"GET /disconnected HTTP/1.1\r\nHost: a\r\n\r\n")
        client.get("/asked")
    told(client, "disconnected")


def test_session_lasts(client: httpx.Client) -> None:
    assert [client.get("/session").json() for _ in range(3)] == [1, 2, 3]


def test_host_and_endpoint_classes_route(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "shop.example.org"}).text == "shop shop.example.org"
    assert client.get("/").status_code == 404
    assert (client.get("/endpoint").text, client.delete("/endpoint").text) == ("got", "deleted")
    assert client.post("/endpoint").status_code == 405


def test_task_of_the_lifespan_runs_beside_requests(client: httpx.Client) -> None:
    told(client, "tick")


def test_websocket_endpoint_class(server: Server, client: httpx.Client) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/upper") as ws:
        assert ws.response
        assert ws.response.headers["x-own"] == "1"
        ws.send("grüße")
        assert ws.recv(10) == "GRÜSSE"
        ws.send(b"bytes are not what it wants")
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
        assert ws.close_code == 1003
    told(client, "upper 1011")  # which is how Starlette calls it


def test_websocket_sends_while_it_receives(server: Server) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/count") as ws:
        got = [ws.recv(10) for _ in range(50)]
        ws.send("stop")
        got += list(ws)
    assert got == [str(number).encode() for number in range(100)]
    assert ws.close_code == 1000
