"""A film sought in a real browser: it asks for the part that it is to show, and gets that part."""

from __future__ import annotations

import re
import struct

from tests.conftest import eventually
from tests.e2e.chromium import Chromium, chromium
from tests.e2e.conftest import Serve

__all__ = ["chromium"]

RATE, MINUTES = 8000, 40
CONFIG = """
[workers]
count = 1
[log]
access = "access.log"
format = "$status $body_bytes_sent $request_uri"
[[route]]
path = "/"
files = "public"
"""

PAGE = """<!doctype html><title>film</title><p id="said">nothing</p><script>
const film = new Audio("film.wav");
film.preload = "auto";
film.onerror = () => { said.textContent = "error " + film.error.code; };
film.onloadedmetadata = () => { film.currentTime = film.duration * 0.9; };
film.onseeked = () => { said.textContent = "at " + film.currentTime + " of " + film.duration; };
</script>"""


def wave() -> bytes:
    """Silence, 19 MB of it: more than a browser fetches ahead."""
    samples = b"\x80" * (RATE * 60 * MINUTES)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def test_a_browser_seeks_in_a_film(serve: Serve, chromium: Chromium) -> None:
    server = serve(CONFIG, {"public/index.html": PAGE, "public/film.wav": wave()})
    dom = chromium.dom(f"http://127.0.0.1:{server.port}/", milliseconds=20_000)
    seconds = MINUTES * 60
    assert f"at {seconds * 0.9:g} of {seconds}" in dom

    def parts() -> list[int]:
        log = (server.directory / "access.log").read_text()
        return [int(size) for size in re.findall(r"^206 (\d+) /film\.wav$", log, re.MULTILINE)]

    eventually(lambda: len(parts()) >= 2, what="its head, and what lies at nine tenths")
    assert min(parts()) < 19_200_000 * 0.2
