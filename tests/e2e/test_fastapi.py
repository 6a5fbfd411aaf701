"""A real FastAPI application: what it makes of requests, and what its clients get. The rest: test_fastapi_live."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.asgi_sites import client, without_complaints
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

__all__ = ["client"]

CONFIG = """
workers.count = 1
http.max_body = "64MiB"
[[route]]
path = "/"
asgi = "tests.e2e.fastapi_app:app"
[[route]]
path = "/below/there"
asgi = "tests.e2e.fastapi_app:app"
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    with without_complaints(serve_module(CONFIG)) as server:
        yield server


def told_since(client: httpx.Client, before: list[str]) -> list[str]:
    told: list[str] = client.get("/told").json()
    return told[len(before) :]


def test_valid_body_reaches_the_endpoint(client: httpx.Client) -> None:
    item = {"name": "tea", "price": 2.5, "tags": ["grün"]}
    assert client.put("/items/7", json={"item": item, "q": "x"}).json() == {"number": 7, "q": "x", **item}


def test_invalid_body_is_a_422_that_names_each_field(client: httpx.Client) -> None:
    answer = client.put("/items/seven", json={"item": {"name": "t", "price": -1}})
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["detail"]] == [
        ["path", "number"],
        ["body", "item", "name"],
        ["body", "item", "price"],
    ]
    broken = client.put("/items/7", content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["detail"][0]["type"]) == (422, "json_invalid")


def test_dependencies_with_yield_close_in_reverse_order(client: httpx.Client) -> None:
    before = client.get("/told").json()
    assert client.get("/depends").json() == "outer inner"
    eventually(lambda: told_since(client, before) == ["called", "inner closed", "outer closed"])


def test_dependency_sees_the_endpoints_exception_and_the_client_a_500(client: httpx.Client, server: Server) -> None:
    before = client.get("/told").json()
    assert client.get("/depends?wrong=1").status_code == 500
    wanted = ["called", "inner closed", "outer saw on purpose", "outer closed"]
    eventually(lambda: told_since(client, before) == wanted)
    server.wait_log("ValueError: on purpose")


def test_background_tasks_begin_after_the_response_and_hold_nobody_up(client: httpx.Client) -> None:
    before = client.get("/told").json()
    assert client.get("/background/one").json() == "answered"  # while the gate is shut
    eventually(lambda: told_since(client, before) == ["async task"])  # on the same connection
    client.get("/open/one")
    eventually(lambda: told_since(client, before) == ["async task", "async task done", "sync task"])


def test_several_files_of_20_mib_are_uploaded(client: httpx.Client) -> None:
    contents = {"a.bin": os.urandom(20 << 20), "ü.txt": b"", "c.bin": os.urandom(1000)}
    files = [("files", (name, content)) for name, content in contents.items()]
    answer = client.post("/uploads", data={"note": "three"}, files=files)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert answer.json() == {"note": "three", "digests": digests}


def test_form_is_read_and_checked(client: httpx.Client) -> None:
    assert client.post("/form", data={"name": "Zoë & co", "age": "7"}).json() == {"name": "Zoë & co", "age": 7}
    assert client.post("/form", data={"name": "Zoë"}).status_code == 422


def test_cookies_come_back(client: httpx.Client) -> None:
    assert [client.get("/cookies").json() for _ in range(3)] == [0, 1, 2]
    assert len(client.get("/cookies").headers.get_list("set-cookie")) == 2


def test_state_of_the_lifespan_is_there_for_each_request_and_what_a_request_adds_is_not(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.get("/state").json() == {"app": "start", "request": ["a pool"], "fresh": True}


def test_head_and_options_and_a_method_that_is_not_there(client: httpx.Client) -> None:
    head = client.head("/any")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len('"HEAD"')))
    assert client.options("/any").json() == "OPTIONS"
    wrong = client.post("/any")
    assert (wrong.status_code, set(wrong.headers["allow"].split(", "))) == (405, {"DELETE", "GET", "HEAD", "OPTIONS"})
    assert client.get("/any").json() == "GET"


def test_cors_preflight_and_answer(client: httpx.Client) -> None:
    asks = {"Origin": "https://example.com", "Access-Control-Request-Method": "PUT"}
    preflight = client.options("/items/7", headers=asks)
    assert (preflight.status_code, preflight.headers["access-control-allow-methods"]) == (200, "PUT")
    assert client.options("/items/7", headers={**asks, "Origin": "https://example.org"}).status_code == 400
    simple = client.get("/any", headers={"Origin": "https://example.com"})
    assert simple.headers["access-control-allow-origin"] == "https://example.com"


def test_gzip_shrinks_what_is_long_and_what_streams(client: httpx.Client) -> None:
    long = client.get("/long")
    assert (long.json(), long.headers["content-encoding"]) == ("long " * 10_000, "gzip")
    assert int(long.headers.get("content-length", 0)) < 1000
    stream = client.get("/stream")
    assert (stream.headers["content-encoding"], stream.text.split()[-1]) == ("gzip", "999")
    assert "content-encoding" not in client.get("/any").headers


def test_middleware_of_either_kind_sees_the_answer(client: httpx.Client) -> None:
    assert client.get("/any").headers["x-middleware"] == "/any"


@pytest.mark.parametrize("path", ["/stream", "/threaded"])
def test_stream_is_whole_and_the_connection_lives(client: httpx.Client, path: str) -> None:
    count = 1000 if path == "/stream" else 50
    for _ in range(2):
        answer = client.get(path, headers={"Accept-Encoding": "identity"})
        assert answer.text.split() == [str(number) for number in range(count)]
        assert answer.headers["transfer-encoding"] == "chunked"
    assert client.head(path).status_code == 405


def test_sync_endpoints_overlap_each_other_and_async_ones(server: Server) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
            first = asyncio.create_task(client.get("/sync"))
            assert (await client.get("/any")).json() == "GET"  # while that one waits for a second
            return [await client.get("/sync"), await first]

    assert [answer.json() for answer in asyncio.run(ask())] == [True, True]


def test_exceptions_become_what_their_handlers_say(client: httpx.Client, server: Server) -> None:
    taken = client.get("/errors/http")
    assert (taken.status_code, taken.json(), taken.headers["x-why"]) == (409, {"detail": {"why": "taken"}}, "taken")
    sold = client.get("/errors/own")
    assert (sold.status_code, sold.json()) == (418, {"sold": "tea"})
    assert client.get("/errors/other").status_code == 500
    server.wait_log("RuntimeError: on purpose")
    assert client.get("/nothing").json() == {"detail": "Not Found"}


def test_documentation_describes_the_endpoints(client: httpx.Client) -> None:
    assert "swagger-ui" in client.get("/docs").text
    assert "/items/{number}" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("below", ["", "/below/there"])
@pytest.mark.parametrize("mounted", ["", "/nested"])
def test_urls_are_right_below_a_path_prefix_and_a_mount(client: httpx.Client, below: str, mounted: str) -> None:
    origin = str(client.base_url).rstrip("/")
    url = f"{origin}{below}{mounted}/url"
    assert client.get(url).json() == {"url": url, "root_path": below + mounted, "base": f"{origin}{below}/"}
    assert f"{below}/openapi.json" in client.get(f"{below}/docs").text
