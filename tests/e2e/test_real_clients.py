"""More clients as people use them: requests, aiohttp, urllib, wget, and wrk with pipelines."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

import pytest

from tests.conftest import needs
from tests.e2e.apps import ECHO, SITE, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

MiB = 1 << 20
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(MiB))  # 4 MiB, no two places alike

MOVED = """
[[route]]
path = "/moved"
redirect = "/there?$request_uri"
[[route]]
path = "/found"
redirect = { to = "/there", status = 302 }
"""

PIECES = b"".join(letter * 65536 for letter in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"))


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    files = {"app.py": ECHO, "public/large": CONTENT, "public/hello.txt": "hello"}
    server = serve_module(SITE + MOVED, files=files)
    with undisturbed(server):
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture
def session() -> Iterator[Any]:
    with pytest.importorskip("requests").Session() as session:
        session.trust_env = False
        yield session


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_session_of_requests_keeps_its_connection(session: Any, url: str) -> None:
    clients = set()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = session.request(method, f"{url}/a%20b", params={"c": "d"}, data=b"hello", timeout=10).json()
        assert (answer["method"], answer["path"], answer["query"]) == (method, "/a b", "c=d")
        assert answer["length"] == 5
        clients.add(answer["client"])
    assert session.head(url, timeout=10).content == b""
    assert session.get(f"{url}/none", timeout=10).status_code == 404
    assert session.get(f"{url}/files/none", timeout=10).status_code == 404
    assert session.get(f"{url}/pieces", timeout=10).content == PIECES
    clients.add(session.get(url, timeout=10).json()["client"])
    assert len(clients) == 1


def test_requests_uploads_a_file(session: Any, url: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open(path, "rb") as file:
        answer = session.post(url, data=file, timeout=10).json()
    assert answer["sha256"] == sha256(CONTENT)
    with open(path, "rb") as file:
        answer = session.post(url, files={"file": file}, data={"name": "value"}, timeout=10).json()
    assert answer["type"].startswith("multipart/form-data; boundary=")
    assert answer["length"] > len(CONTENT)


def test_requests_uploads_what_a_generator_makes(session: Any, url: str) -> None:
    pieces = (CONTENT[at : at + 10_000] for at in range(0, len(CONTENT), 10_000))
    assert session.put(url, data=pieces, timeout=10).json()["sha256"] == sha256(CONTENT)


@pytest.mark.parametrize(("path", "expected"), [("/files/large", CONTENT), ("/pieces", PIECES)])
def test_requests_downloads_in_a_stream(session: Any, url: str, path: str, expected: bytes) -> None:
    with session.get(url + path, stream=True, timeout=10) as response:
        assert b"".join(response.iter_content(10_000)) == expected
    with session.get(url + path, stream=True, timeout=10) as response:  # and leaves in the middle of it
        assert next(response.iter_content(10_000)) == expected[:10_000]
    assert session.get(f"{url}/files/hello.txt", timeout=10).text == "hello"


def test_requests_follows_redirects(session: Any, url: str) -> None:
    response = session.post(f"{url}/moved?a=b", data=CONTENT, timeout=10)  # 308: the same again
    assert [hop.status_code for hop in response.history] == [308]
    answer = response.json()
    assert (answer["method"], answer["path"], answer["query"]) == ("POST", "/there", "/moved?a=b")
    assert answer["sha256"] == sha256(CONTENT)
    response = session.post(f"{url}/found", data=b"hello", timeout=10)  # 302: a GET
    answer = response.json()
    assert (answer["method"], answer["path"], answer["length"]) == ("GET", "/there", 0)


def test_aiohttp_gets_a_hundred_in_parallel_on_a_few_connections(url: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def talk() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=10)) as session:

            async def ask(number: int) -> dict[str, Any]:
                async with session.get(f"{url}/", params={"number": number}) as response:
                    answer: dict[str, Any] = await response.json()
                    return answer

            return await asyncio.wait_for(asyncio.gather(*map(ask, range(100))), 20)

    answers = asyncio.run(talk())
    assert [answer["query"] for answer in answers] == [f"number={number}" for number in range(100)]
    assert len({answer["client"] for answer in answers}) <= 10


def test_aiohttp_uploads_what_an_async_generator_makes(url: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(CONTENT), 50_000):
            yield CONTENT[at : at + 50_000]
            await asyncio.sleep(0)

    async def talk() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            answers = []
            for _ in range(2):
                async with session.post(url, data=pieces()) as response:
                    answers.append(await response.json())
            return answers

    first, second = asyncio.run(talk())
    assert first == second  # the connection too
    assert first["sha256"] == sha256(CONTENT)


def test_aiohttp_reads_the_pieces_of_a_chunked_response(url: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def talk() -> list[bytes]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
            session.get(f"{url}/pieces") as response,
        ):
            assert response.headers["Transfer-Encoding"] == "chunked"
            chunks, chunk = [], b""
            async for data, is_end in response.content.iter_chunks():
                chunk += data
                if is_end and chunk:  # it may show the last-chunk too, when that arrives by itself
                    chunks.append(chunk)
                    chunk = b""
            return chunks

    chunks = asyncio.run(talk())
    assert len(chunks) > 1
    assert b"".join(chunks) == PIECES


@pytest.fixture
def opener() -> OpenerDirector:
    return build_opener(ProxyHandler({}))


def test_urllib_gets_posts_and_follows(opener: OpenerDirector, url: str) -> None:
    with opener.open(f"{url}/files/large", timeout=10) as response:
        assert response.read() == CONTENT
    with opener.open(f"{url}/pieces", timeout=10) as response:
        assert response.read() == PIECES
    with opener.open(url, CONTENT, timeout=10) as response:
        assert json.load(response)["sha256"] == sha256(CONTENT)
    with opener.open(Request(url, iter([b"one ", b"two"]), method="PUT"), timeout=10) as response:
        assert json.load(response)["sha256"] == sha256(b"one two")
    with opener.open(f"{url}/moved", timeout=10) as response:
        assert response.url == f"{url}/there?/moved"
    with pytest.raises(HTTPError) as raised:
        opener.open(f"{url}/none", timeout=10)
    with raised.value as error:
        assert error.code == 404
        assert json.load(error)["path"] == "/none"


def wget(directory: Path, *args: str) -> str:
    """What wget tells, headers included; it puts its files into `directory`. Fails where wget does."""
    needs("wget")
    command = ["wget", "--no-config", "--no-proxy", "--tries=1", "--timeout=20", "--server-response", *args]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_wget_downloads_several_files_on_one_connection(url: str, tmp_path: Path) -> None:
    told = wget(tmp_path, f"{url}/files/hello.txt", f"{url}/pieces", f"{url}/files/large")
    assert (tmp_path / "hello.txt").read_bytes() == b"hello"
    assert (tmp_path / "pieces").read_bytes() == PIECES
    assert (tmp_path / "large").read_bytes() == CONTENT
    assert told.count("Reusing existing connection") == 2


def test_wget_completes_a_download_that_was_cut_short(url: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(CONTENT[:MiB])
    wget(tmp_path, "--continue", f"{url}/files/large")
    assert (tmp_path / "large").read_bytes() == CONTENT


def test_wget_asks_only_for_what_is_newer(url: str, tmp_path: Path) -> None:
    assert "HTTP/1.1 200 " in wget(tmp_path, "--timestamping", f"{url}/files/hello.txt")
    assert "HTTP/1.1 304 " in wget(tmp_path, "--timestamping", f"{url}/files/hello.txt")


def test_wget_posts_a_file_and_follows_a_redirect(url: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(CONTENT)
    wget(tmp_path, "--post-file=body", "--output-document=answer", f"{url}/moved")
    answer = json.loads((tmp_path / "answer").read_text())
    assert (answer["method"], answer["path"], answer["sha256"]) == ("POST", "/there", sha256(CONTENT))


PIPELINE = """
function init(args)
    local requests = {}
    for number = 1, 8 do
        requests[number] = wrk.format("GET", wrk.path .. "?" .. number)
    end
    pipeline = table.concat(requests)
end

function request()
    return pipeline
end
"""


@pytest.mark.parametrize("path", ["/", "/files/hello.txt", "/pieces"])
def test_wrk_sees_no_error_in_its_pipelines(url: str, tmp_path: Path, path: str) -> None:
    needs("wrk")
    script = tmp_path / "pipeline.lua"
    script.write_text(PIPELINE)
    command = ["wrk", "-t1", "-c16", "-d1", "--timeout", "30", "-s", str(script), url + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 100
    assert "Socket errors" not in done.stdout
    assert "Non-2xx" not in done.stdout
