"""Static files: what is sent, with which type and fields."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefork.handlers.files.representation import SMALL
from prefork.handlers.files.static import Files
from prefork.http.message import FileSegment
from tests.handlers.files.file_trees import ask, content, field, got, serve

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def test_a_small_file_is_sent_as_bytes_with_type_and_validators(root: Path, files: Files) -> None:
    (root / "site.css").write_bytes(b"a {}")
    os.utime(root / "site.css", (0, 784111777))
    response = ask(files, "/site.css")
    assert (response.status, response.body) == (200, b"a {}")
    assert [name for name, _ in response.headers] == ["Content-Type", "Last-Modified", "ETag", "Accept-Ranges"]
    assert field(response, "Content-Type") == "text/css; charset=utf-8"
    assert field(response, "Last-Modified") == "Sun, 06 Nov 1994 08:49:37 GMT"
    etag = field(response, "ETag")
    assert etag is not None
    assert etag.startswith('"')
    assert etag.endswith('"')


def test_a_small_file_is_bytes_and_one_byte_more_is_a_segment(root: Path, files: Files) -> None:
    (root / "small").write_bytes(b"s" * SMALL)
    (root / "large").write_bytes(b"l" * (SMALL + 1))
    assert ask(files, "/small").body == b"s" * SMALL
    response = ask(files, "/large")
    assert isinstance(response.body, FileSegment)
    assert (response.body.offset, response.body.count) == (0, SMALL + 1)
    assert content(response) == b"l" * (SMALL + 1)


def test_an_empty_file_is_an_empty_body(root: Path, files: Files) -> None:
    (root / "empty").touch()
    for method in ("GET", "HEAD"):
        response = ask(files, "/empty", method)
        assert (response.status, response.body) == (200, b"")


@pytest.mark.parametrize("size", [0, 1, SMALL, SMALL + 1])
def test_head_is_answered_like_get(root: Path, files: Files, size: int) -> None:
    (root / "file.txt").write_bytes(b"x" * size)
    get = ask(files, "/file.txt")
    length = len(content(get))
    head = ask(files, "/file.txt", "HEAD")
    assert (head.status, head.headers) == (get.status, get.headers)
    assert len(content(head)) == length  # the connection sends none of it


@pytest.mark.parametrize("path", ["/missing", "/sub", "/.git"])
def test_head_of_what_is_no_file_is_answered_like_get(root: Path, files: Files, path: str) -> None:
    (root / "sub").mkdir()
    get, head = ask(files, path), ask(files, path, "HEAD")
    assert (head.status, head.headers, head.body) == (get.status, get.headers, get.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", "TRACE"])
def test_other_methods_are_405_whether_the_file_exists_or_not(root: Path, files: Files, method: str) -> None:
    (root / "file").touch()
    for path in ("/file", "/missing"):
        response = ask(files, path, method)
        assert (response.status, field(response, "Allow")) == (405, "GET, HEAD")


def test_options_is_204_with_allow(files: Files) -> None:
    for path in ("/any", "*"):
        response = ask(files, path, "OPTIONS")
        assert (response.status, field(response, "Allow"), response.body) == (204, "GET, HEAD", b"")


def test_max_age_becomes_cache_control_and_its_absence_says_nothing(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    assert field(ask(serve(root, max_age=3600), "/file"), "Cache-Control") == "max-age=3600"
    assert field(ask(serve(root, max_age=0), "/file"), "Cache-Control") == "max-age=0"
    assert field(ask(serve(root), "/file"), "Cache-Control") is None
    assert field(ask(serve(root, max_age=3600), "/missing"), "Cache-Control") is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.html", "text/html; charset=utf-8"),
        ("PAGE.HTML", "text/html; charset=utf-8"),
        ("notes.txt", "text/plain; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("app.min.js", "text/javascript; charset=utf-8"),
        ("app.js.map", "application/json"),
        ("data.json", "application/json"),
        ("read.md", "text/markdown; charset=utf-8"),
        ("feed.xml", "application/xml"),
        ("logo.svg", "image/svg+xml"),
        ("logo.png", "image/png"),
        ("photo.webp", "image/webp"),
        ("photo.avif", "image/avif"),
        ("font.woff2", "font/woff2"),
        ("code.wasm", "application/wasm"),
        ("site.webmanifest", "application/manifest+json"),
        ("film.mp4", "video/mp4"),
        ("all.tar.gz", "application/gzip"),
        ("all.tgz", "application/gzip"),
        ("page.html.gz", "application/gzip"),
        ("page.html.br", "application/x-brotli"),
        ("archive.zip", "application/zip"),
        ("unknown.xyzzy", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("ends-with-dot.", "application/octet-stream"),
        ("data:text,x.css", "text/css; charset=utf-8"),
        ("no.css?x", "application/octet-stream"),
    ],
)
def test_the_type_follows_the_extension_and_never_a_content_encoding(
    root: Path, files: Files, name: str, kind: str
) -> None:
    (root / name).write_bytes(b"x")
    response = ask(files, f"/{name}")
    assert field(response, "Content-Type") == kind
    assert field(response, "Content-Encoding") is None


@pytest.mark.parametrize(
    "name",
    [
        b"two words.txt",
        "größe/日本.txt".encode(),
        b"100%",
        b"%2e%2e",
        b"what?.txt",
        b"a#b",
        b"a+b;c&d=e",
        b"a\\b",
        b"\xff",
    ],
)
def test_any_name_that_the_file_system_holds_can_be_asked_for(root: Path, files: Files, name: bytes) -> None:
    place = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb") as file:
        file.write(b"here")
    assert got(files, b"/" + name) == (200, b"here")
