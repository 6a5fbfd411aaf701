"""`prefork start --files`: a directory served by one command, and the listing as a browser and a person see it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.chromium import Chromium, chromium
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, Server

__all__ = ["chromium"]

HOSTILE = "<img src=x onerror=\"document.title='owned'\">.html"
FILES: dict[str, str | bytes] = {
    "public/readme.txt": "read me",
    "public/a b/100%.txt": "percent",
    "public/a b/café #1?.txt": "a name",
    "public/a b/big.bin": b"\0" * 70_000,
    f"public/a b/{HOSTILE}": "<p>hello",
    "public/.env": "SECRET=1",
}


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module("[workers]\ncount = 1\n", FILES, ["--files", "public", "--listing"])


@contextmanager
def started(directory: Path, *args: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`prefork start ARGS` without a file, in `directory`: its address, and the process."""
    command = [sys.executable, "-m", "prefork", "start", *args, "--listen", "127.0.0.1:0", "--workers", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"serving (http://\S+)", process.stdout.readline())
            assert found
            yield found[1], process
        finally:
            process.terminate()


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_one_command_serves_this_directory_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the index")
    (tmp_path / "sub").mkdir()
    with started(tmp_path, "--files") as (address, process):
        assert fetch(address) == (200, b"the index")
        assert fetch(f"{address}sub/")[0] == 404  # listed only where that is asked for
        process.terminate()
        assert process.wait(10) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index.html", "sub"]


def test_one_command_lists_another_directory(tmp_path: Path) -> None:
    (tmp_path / "site" / "sub").mkdir(parents=True)
    (tmp_path / "site" / "sub" / "file.txt").write_text("x")
    with started(tmp_path, "--files", "site", "--listing") as (address, _):
        assert b'href="sub/"' in fetch(address)[1]
        assert b'href="file.txt"' in fetch(f"{address}sub/")[1]


def test_it_takes_the_place_of_the_root_of_a_file_that_is_named(serve: Serve) -> None:
    config = (
        '[workers]\ncount = 1\n[[route]]\nrespond = { body = "/" }\n[[route]]\npath = "/x"\nrespond = { body = "x" }'
    )
    server = serve(config, FILES, ["--files", "public"])
    assert (server.get("/readme.txt").body, server.get("/x").body, server.get("/").status) == (b"read me", b"x", 404)


def test_every_link_of_a_listing_leads_to_its_file(server: Server) -> None:
    page = server.get("/a%20b/").body.decode()
    links = re.findall(r'<th scope="row"><a href="([^"]*)"', page)
    assert links[0] == "../"
    bodies = {server.get(f"/a%20b/{link}").body for link in links[1:]}
    assert bodies == {b"percent", b"a name", b"\0" * 70_000, b"<p>hello"}


def test_the_json_is_for_programs(server: Server) -> None:
    answer = server.get("/", {"Accept": "application/json"})
    assert answer.headers["Vary"] == "Accept"
    found = json.loads(answer.body)["entries"]
    assert [(entry["url"], entry["type"], entry["size"]) for entry in found] == [
        ("a%20b/", "directory", None),
        ("readme.txt", "file", 7),
    ]
    assert server.get("/.env").status == 404


def test_chromium_shows_the_listing_and_runs_nothing_of_its_names(server: Server, chromium: Chromium) -> None:
    address = f"http://127.0.0.1:{server.port}/a%20b/"
    dom = chromium.dom(f"{address}?sort=size&order=desc")
    assert "<title>a b - files</title>" in dom
    shown = re.findall(r'<th scope="row"><a href="[^"]*">.*?<bdi>(.*?)</bdi>', dom)
    assert shown[0] == "big.bin"
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in shown


def test_chromium_paints_it_light_and_dark(server: Server, chromium: Chromium, tmp_path: Path) -> None:
    address, png = f"http://127.0.0.1:{server.port}/", tmp_path / "listing.png"
    chromium.screenshot(address, png)
    assert min(corner(png)) > 200
    chromium.screenshot(address, png, "--blink-settings=preferredColorScheme=0")
    assert max(corner(png)) < 60


def corner(png: Path) -> tuple[int, ...]:
    """Red, green and blue of the first pixel, which is the same in every filter (PNG §9.2): nothing is before it."""
    data, at, packed = png.read_bytes(), 8, b""
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return tuple(zlib.decompress(packed)[1:4])
