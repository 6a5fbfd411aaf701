"""Files as real clients take them: parts of a huge one, downloads resumed, a whole site compared byte for byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import eventually, needs
from tests.e2e.apps import ALONE
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

GiB = 1 << 30
SPARSE = 5 * GiB  # beyond what 32 bits can count, signed or not
MARKS = (0, 2 * GiB - 3, 4 * GiB - 3, SPARSE - 6)
ODD_NAMES = ("two words.txt", "größe/日本.txt", "100%", "%2e%2e", "what?.txt", "a#b", "a+b;c&d=e", "a\\b", 'q".txt')
CONFIG = f"""{ALONE}
[[route]]
path = "/"
files = {{ root = "public", max_ranges = 5, precompressed = true }}
[[route]]
path = "/app"
files = {{ root = "public/app", try = ["$uri", "/index.html"] }}
[[route]]
path = "/lib"
files = "{sysconfig.get_path("stdlib")}/email"
[[route]]
path = "/status"
status = true
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    names = {f"public/odd/{name}": name for name in ODD_NAMES}
    app = {"public/app/index.html": "the app", "public/app/main.js": "1"}
    server = serve_module(CONFIG, files={"public/film": bytes(range(250)) * 8000, **names, **app})
    with open(server.directory / "public/huge", "wb") as file:
        file.truncate(SPARSE)
        for at in MARKS:
            os.pwrite(file.fileno(), b"MARKED", at)
    return server


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- ranges


@pytest.mark.parametrize("at", MARKS)
def test_ranges_count_beyond_32_bits(server: Server, at: int) -> None:
    got = server.get("/huge", {"Range": f"bytes={at}-{at + 5}"})
    assert (got.status, got.body) == (206, b"MARKED")
    assert got.headers["Content-Range"] == f"bytes {at}-{at + 5}/{SPARSE}"


def test_several_ranges_of_a_huge_file_come_in_one_answer(server: Server) -> None:
    wanted = ",".join(f"{at}-{at + 5}" for at in MARKS)
    got = server.get("/huge", {"Range": f"bytes={wanted}"})
    assert got.status == 206
    assert int(got.headers["Content-Length"]) == len(got.body)
    assert got.body.count(b"\r\n\r\nMARKED\r\n--") == len(MARKS)
    assert f"bytes {MARKS[-1]}-{SPARSE - 1}/{SPARSE}".encode() in got.body


def test_the_size_of_a_huge_file_is_told(server: Server) -> None:
    assert server.get("/huge", method="HEAD").headers["Content-Length"] == str(SPARSE)
    assert server.get("/huge", {"Range": f"bytes={SPARSE}-"}).headers["Content-Range"] == f"bytes */{SPARSE}"


def test_more_ranges_than_allowed_get_the_whole(server: Server) -> None:
    got = server.get("/film", {"Range": "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 12, 2))})
    assert (got.status, len(got.body)) == (200, 2_000_000)


def test_the_connection_lives_on_after_parts_and_refusals(server: Server) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for wanted, status in (("0-9", 206), ("0-9,20-29", 206), ("9000000-", 416), ("-5", 206), ("x", 200)):
        connection.request("GET", "/film", headers={"Range": f"bytes={wanted}"})
        response = connection.getresponse()
        response.read()
        assert response.status == status, wanted
        assert connection.sock is not None
    connection.close()


def test_parallel_ranges_make_the_whole(server: Server) -> None:
    """As download managers do it."""
    size, pieces = 2_000_000, 16
    step = size // pieces
    with ThreadPoolExecutor(8) as pool:
        fetch = lambda at: server.get("/film", {"Range": f"bytes={at}-{at + step - 1}"}).body  # noqa: E731
        parts = list(pool.map(fetch, range(0, size, step)))
    assert b"".join(parts) == (server.directory / "public/film").read_bytes()


def test_a_file_that_shrinks_under_several_ranges_ends_the_connection(server: Server) -> None:
    path = server.directory / "public/shrinks"
    with open(path, "wb") as file:
        file.truncate(200 << 20)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/shrinks", headers={"Range": f"bytes=0-{100 << 20},{150 << 20}-"})
    response = connection.getresponse()
    response.read(1 << 20)
    os.truncate(path, 2 << 20)
    with pytest.raises(Exception, match=r"IncompleteRead|reset"):
        response.read()
    connection.close()
    path.unlink()
    server.wait_log("/shrinks: the file was cut short")


# ---- clients


def test_curl_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    needs("curl")
    whole = (server.directory / "public/film").read_bytes()
    (tmp_path / "film").write_bytes(whole[:777_777])
    run("curl", "-sSf", "-C", "-", "-o", "film", f"http://127.0.0.1:{server.port}/film", cwd=tmp_path)
    assert (tmp_path / "film").read_bytes() == whole


def test_wget_goes_on_where_it_was_and_leaves_what_it_has(server: Server, tmp_path: Path) -> None:
    needs("wget")
    whole = (server.directory / "public/film").read_bytes()
    (tmp_path / "film").write_bytes(whole[:1_234_567])
    for _ in range(2):  # the second time there is nothing more: 416
        run("wget", "-q", "-c", f"http://127.0.0.1:{server.port}/film", cwd=tmp_path)
        assert (tmp_path / "film").read_bytes() == whole


def test_curl_takes_parts_by_their_names(server: Server, tmp_path: Path) -> None:
    needs("curl")
    url = f"http://127.0.0.1:{server.port}/film"
    assert run("curl", "-sSf", "-r", "0-3,8-9", url, "-D", "-", "-o", "parts", cwd=tmp_path).startswith("HTTP/1.1 206")
    etag = server.get("/film", method="HEAD").headers["ETag"]
    assert " 304 " in run("curl", "-sS", "-I", "-H", f"If-None-Match: {etag}", url, cwd=tmp_path)
    assert " 412 " in run("curl", "-sS", "-I", "-H", 'If-Match: "x"', url, cwd=tmp_path)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_with_everything_in_them_are_found(server: Server, name: str) -> None:
    got = server.get(quote(f"/odd/{name}"))
    assert (got.status, got.body.decode()) == (200, name)


def test_a_whole_tree_is_the_same_file_by_file(server: Server) -> None:
    root = Path(sysconfig.get_path("stdlib")) / "email"
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    count = 0
    for path in sorted(root.rglob("*")):
        if path.is_file() and "/." not in str(path.relative_to(root)):
            connection.request("GET", quote(f"/lib/{path.relative_to(root)}"))
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, path.read_bytes()), path
            count += 1
    connection.close()
    assert count > 15


# ---- what a route's settings make of paths


def test_an_application_of_one_page_gets_all_paths_that_are_no_files(server: Server) -> None:
    assert server.get("/app/main.js").body == b"1"
    for path in ("/app/", "/app/users/17", "/app/deep/link?x=1"):
        got = server.get(path)
        assert (got.status, got.body, got.headers["Content-Type"]) == (200, b"the app", "text/html; charset=utf-8")
    assert server.get("/app/.env").status == 404


def test_gzip_beside_a_file_is_sent_to_curl_which_undoes_it(server: Server, tmp_path: Path) -> None:
    needs("curl", "gzip")
    (server.directory / "public/page.html").write_bytes(b"<p>page</p>" * 1000)
    run("gzip", "-k", "page.html", cwd=server.directory / "public")
    url = f"http://127.0.0.1:{server.port}/page.html"
    head = run("curl", "-sSf", "--compressed", "-D", "-", "-o", "page", url, cwd=tmp_path)
    assert re.search("^content-encoding: gzip$", head, re.MULTILINE | re.IGNORECASE)
    assert (tmp_path / "page").read_bytes() == b"<p>page</p>" * 1000
    assert "ncoding" not in run("curl", "-sSf", "-I", url, cwd=tmp_path).replace("Vary: Accept-Encoding", "")


def test_a_change_shows_within_the_second_and_the_counters_tell(server: Server) -> None:
    path = server.directory / "public/changes.txt"
    path.write_text("one")
    assert server.get("/changes.txt").body == b"one"
    path.write_text("the other")
    eventually(lambda: server.get("/changes.txt").body == b"the other", within=3, what="the change")
    totals = json.loads(server.get("/status").body)["totals"]
    assert totals["file_cache"]["misses"] > 1
    assert totals["file_cache"]["hits"] + totals["repeats"] >= 0
