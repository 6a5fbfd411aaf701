"""A real browser loads a page of many assets, over few connections; what it has already, it does not fetch again."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections import Counter

import pytest

from tests.conftest import eventually
from tests.e2e.chromium import Chromium, chromium
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

__all__ = ["chromium"]

CONFIG = """
[workers]
count = 2
[log]
access = "access.log"
format = "$status $request_uri"
[[route]]
path = "/"
files = { root = "public", max_age = 0 }
[[route]]
path = "/app"
wsgi = "site_app:app"
"""

APP = """
def app(environ, start_response):
    name = environ["PATH_INFO"].lstrip("/")
    kind, body = {
        "css": ("text/css", b".%s { width: 7px }"),
        "js": ("text/javascript", b"loaded('%s')"),
    }[name.rpartition(".")[2]]
    body %= name.partition(".")[0].encode()
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
"""


def png(width: int) -> bytes:
    """A grey image of this width, one pixel high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * (width + 1)))
        + chunk(b"IEND", b"")
    )


MOST_CONNECTIONS = 12  # a visit: 6 to a host at once, and what it opens in advance
PICTURES, WIDTH = 22, 7
BY_FILE = [f"{number}.{kind}" for kind in ("css", "js") for number in range(7)]
BY_FILE += [f"{number}.png" for number in range(PICTURES // 2)] + [f"{number}.svg" for number in range(PICTURES // 2)]
BY_APP = [f"app/a{number}.{kind}" for kind in ("css", "js") for number in range(7)]
ASSETS = [*BY_FILE, *BY_APP]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>50 assets</title><link rel="icon" href="data:,">
<script>let scripts = []; function loaded(name) { scripts.push(name) }</script>
{assets}
<p id="result">loading</p>
<script>
addEventListener("load", () => {
  const sheets = [...document.styleSheets].filter(sheet => sheet.cssRules[0].style.width == "7px")
  const images = [...document.images].filter(image => image.naturalWidth == 7)
  document.getElementById("result").textContent =
    `${sheets.length} styles, ${new Set(scripts).size} scripts, ${images.length} images`
})
</script>
</html>
"""
TAGS = {
    "css": '<link rel="stylesheet" href="/{}">',
    "js": '<script src="/{}"></script>',
    "png": '<img src="/{}" alt="">',
    "svg": '<img src="/{}" alt="">',
}


@pytest.fixture
def server(serve: Serve) -> Server:
    contents = {
        "css": lambda name: f".s{name} {{ width: {WIDTH}px }}",
        "js": lambda name: f"loaded('{name}')",
        "png": lambda _: png(WIDTH),
        "svg": lambda _: f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="1"/>',
    }
    files = {f"public/{asset}": contents[asset.rpartition(".")[2]](asset.partition(".")[0]) for asset in BY_FILE}
    tags = "\n".join(TAGS[asset.rpartition(".")[2]].format(asset) for asset in ASSETS)
    page = PAGE.replace("{assets}", tags)
    return serve(CONFIG, files={**files, "public/index.html": page, "site_app.py": APP})


def logged(server: Server, count: int) -> Counter[tuple[str, str]]:
    """How often each (status, target) is in the access log, once that has so many lines."""
    path = server.directory / "access.log"
    lines = eventually(
        lambda: len(found := path.read_text().splitlines()) >= count and found,
        what=lambda: f"{count} lines in the access log\n{path.read_text()}",
    )
    assert lines
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def accepted(server: Server) -> int:
    """How many connections the server has seen."""
    return int(json.loads(server.command("status", "--json").stdout)["totals"]["accepted"])


def result(dom: str) -> str:
    found = re.search(r'<p id="result">(.*?)</p>', dom)
    assert found, dom
    return found[1]


def test_chromium_loads_a_page_of_fifty_assets_and_then_fetches_only_what_has_no_validator(
    server: Server, chromium: Chromium
) -> None:
    whole = f"14 styles, 14 scripts, {PICTURES} images"
    targets = ["/", *(f"/{asset}" for asset in ASSETS)]
    url = f"http://127.0.0.1:{server.port}/"

    assert result(chromium.dom(url)) == whole
    assert logged(server, len(targets)) == Counter({("200", target): 1 for target in targets})
    first = accepted(server)
    assert first <= MOST_CONNECTIONS

    assert result(chromium.dom(url)) == whole
    again = logged(server, 2 * len(targets)) - Counter(("200", target) for target in targets)
    assert again == Counter(("200" if "/app/" in target else "304", target) for target in targets)
    assert accepted(server) - first <= MOST_CONNECTIONS
