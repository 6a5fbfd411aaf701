"""A `files` route over real connections: what it serves, how it sends it, and what it never lets out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from urllib.parse import quote

import pytest

from tests.conftest import eventually
from tests.e2e.apps import ALONE, connect, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

MiB = 1 << 20
BIG = 200 * MiB
SECRET = b"nobody is to read this"

ROUTES = """
[file_cache]
open_files = 0
valid = 0
[[route]]
path = "/"
files = { root = "public", max_age = 60 }
[[route]]
path = "/static"
files = "public/sub"
"""

FILES = {
    "public/index.html": "home",
    "public/style.css": "p {}",
    "public/app.js": "1",
    "public/logo.svg": "<svg/>",
    "public/data.json": "{}",
    "public/archive.tar.gz": b"\x1f\x8b",
    "public/README": "read me",
    "public/empty": b"",
    "public/medium": b"m" * 300_000,
    "public/sub/index.html": "home of sub",
    "public/sub/page.html": "page of sub",
    "public/bare/page.html": "page",
    "public/a space & more;.txt": "space",
    "public/grün/Ärger.txt": "umlaut",
    "public/日本.txt": "kanji",
    "public/per%cent%20.txt": "percent",
    "public/back\\slash.txt": "backslash",
    "public/.hidden": SECRET,
    "public/.git/config": SECRET,
    "secret.txt": SECRET,
    "publicity/secret.txt": SECRET,  # a name that begins like the root's
}


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    server = serve_module(ALONE + ROUTES, files=FILES)
    public = server.directory / "public"
    (public / "out").symlink_to("../secret.txt")
    (public / "far").symlink_to(server.directory)
    (public / "in").symlink_to("sub/page.html")
    with open(public / "big", "wb") as file:  # sparse, but for a mark in each MiB that tells where it is
        file.truncate(BIG)
        for at in range(0, BIG, MiB):
            os.pwrite(file.fileno(), b"%d" % at, at)
    return server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose worker lives on after the test, has closed every file, and has said nothing."""
    with undisturbed(shared):
        yield shared
        eventually(lambda: not open_files(shared), what=lambda: f"all files closed: {open_files(shared)}")


def open_files(server: Server) -> list[str]:
    """What of the served files its worker has open."""
    (worker,) = server.workers()
    return [file.path for file in worker.open_files() if "/public" in file.path]


@pytest.fixture
def client(server: Server) -> Iterator[HTTPConnection]:
    with closing(connect(server)) as connection:
        yield connection


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("logo.svg", "image/svg+xml"),
        ("data.json", "application/json"),
        ("archive.tar.gz", "application/gzip"),
        ("README", "application/octet-stream"),
        ("medium", "application/octet-stream"),
    ],
)
def test_a_file_comes_with_its_type_and_head_says_the_same(server: Server, path: str, kind: str) -> None:
    content = (server.directory / "public" / path).read_bytes()
    got, head = server.get(f"/{path}"), server.get(f"/{path}", method="HEAD")
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, content, kind)
    assert got.headers["Content-Length"] == str(len(content))
    assert got.headers["Cache-Control"] == "max-age=60"
    del got.headers["Date"], head.headers["Date"]
    assert (head.status, head.body, head.headers.items()) == (200, b"", got.headers.items())


def test_a_directory_is_answered_by_its_index_and_at_its_slash_only(server: Server) -> None:
    assert server.get("/").body == b"home"
    assert server.get("/sub/").body == server.get("/static/").body == b"home of sub"
    assert server.get("/static/page.html").body == b"page of sub"
    moved = server.get("/sub?a=b")
    assert (moved.status, moved.headers["Location"]) == (301, "/sub/?a=b")
    assert server.get("/bare/").status == 404


def test_what_has_not_changed_is_not_sent_again(client: HTTPConnection) -> None:
    for path in ("/index.html", "/medium", "/big"):
        client.request("HEAD", path)
        head = client.getresponse()
        head.read()
        for field, validator in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
            client.request("GET", path, headers={field: head.headers[validator]})
            unchanged = client.getresponse()
            assert (unchanged.status, unchanged.read()) == (304, b"")
            assert unchanged.headers["ETag"] == head.headers["ETag"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_files_are_for_reading_and_the_connection_lives_on(client: HTTPConnection, method: str) -> None:
    client.request(method, "/index.html", body=bytes(1000))
    refused = client.getresponse()
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    refused.read()
    client.request("GET", "/index.html")
    assert client.getresponse().read() == b"home"


def test_names_of_every_kind_are_found(server: Server) -> None:
    for path, content in FILES.items():
        name = path.removeprefix("public/")
        if name != path and not name.startswith("."):
            assert server.get(f"/{quote(name)}").body == (content if isinstance(content, bytes) else content.encode())
    assert server.raw("GET /grün/Ärger.txt HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 400 ")  # not encoded
    assert server.get("/in").body == b"page of sub"


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/static/../../secret.txt",
        "/static../secret.txt",
        "/static../../secret.txt",
        "/%2e%2e/secret.txt",
        "/.%2e/secret.txt",
        "/%2E%2E%2Fsecret.txt",
        "/..%2fsecret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/sub%2f..%2f..%2fsecret.txt",
        "/%252e%252e/secret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/sub\\..\\..\\secret.txt",
        "//../secret.txt",
        "//secret.txt",
        "/sub//../..//secret.txt",
        "/.../secret.txt",
        "/..;/secret.txt",
        "/.%00./secret.txt",
        "/index.html%00/../../secret.txt",
        "/../publicity/secret.txt",
        "ity/secret.txt",
        "http://x/../secret.txt",
        "http://x/%2e%2e/secret.txt",
        "/out",
        "/far/secret.txt",
        "/far/public/../secret.txt",
        "/.hidden",
        "/%2ehidden",
        "/.git/config",
        "/sub/../.git/config",
        "/%c0%ae%c0%ae/secret.txt",
        "/%uff0e%uff0e/secret.txt",
        "{root}/secret.txt",
        "/{root}/secret.txt",
        "/%2f{root}/secret.txt",
        "file://{root}/secret.txt",
    ],
)
def test_nothing_outside_the_root_is_ever_served(server: Server, target: str) -> None:
    target = target.replace("{root}", str(server.directory))
    for version in (b"1.0", b"1.1"):
        answer = server.raw(b"GET %b HTTP/%b\r\nHost: x\r\nConnection: close\r\n\r\n" % (target.encode(), version))
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
        assert SECRET not in answer


def test_a_file_of_200_mb_arrives_whole_and_never_enters_memory(server: Server, client: HTTPConnection) -> None:
    (worker,) = server.workers()
    expected = hashlib.sha256((server.directory / "public" / "big").read_bytes()).digest()
    before = highest = worker.memory_info().rss
    client.request("GET", "/big")
    response = client.getresponse()
    assert response.headers["Content-Length"] == str(BIG)
    digest = hashlib.sha256()
    while data := response.read(MiB):
        digest.update(data)
        highest = max(highest, worker.memory_info().rss)
    assert digest.digest() == expected
    assert highest < before + 5 * MiB


def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(shared: Server) -> None:
    path = shared.directory / "public" / "shrinks"
    with open(path, "wb") as file:
        file.truncate(BIG)
    client = connect(shared)
    try:
        client.request("GET", "/shrinks")
        response = client.getresponse()
        begun = response.read(MiB)
        os.truncate(path, 2 * MiB)
        with pytest.raises(IncompleteRead) as error:
            response.read()
        assert 2 * MiB <= len(begun + error.value.partial) < BIG
    finally:
        client.close()
        path.unlink()
    shared.wait_log("/shrinks: the file was cut short")
    eventually(lambda: not open_files(shared), what="all files closed")
    assert shared.get("/").body == b"home"
