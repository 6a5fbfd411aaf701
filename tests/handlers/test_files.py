"""Static files: real trees, real links, real descriptors; the handler never suspends, so one `send` drives it."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import logging
import os
import resource
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.handlers import tree
from prefork.handlers.files import SMALL, Files
from prefork.http.message import Client, FileSegment, Headers, Request, RequestLine, Response

SECRET = b"SECRET: outside the root"
CLIENT = Client("127.0.0.1", 50000, "http", "localhost", "8000")


class NoBody:
    async def spool(self) -> IO[bytes]:
        raise AssertionError("a file handler reads no body")

    def chunks(self) -> AsyncIterator[bytes]:
        raise AssertionError("a file handler reads no body")

    async def discard(self) -> bool:
        raise AssertionError("what is left of a body is the connection's affair")


def ask(files: Files, path: str | bytes, method: str = "GET", query: str = "", **fields: str) -> Response:
    """The response to `path`, which is decoded; `if_none_match="*"` is a field."""
    raw = path.encode() if isinstance(path, str) else path
    target = quote(raw) + (f"?{query}" if query else "")
    line = RequestLine(method, target, raw.decode("latin-1"), query, "", 1)
    headers = Headers(tuple((name.replace("_", "-"), value) for name, value in fields.items()))
    coroutine: Any = files(Request(line, headers, NoBody(), CLIENT))
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    response = stopped.value.value
    assert isinstance(response, Response)
    return response


def content(response: Response) -> bytes:
    """The body's bytes; closes a FileSegment, as the connection does."""
    if isinstance(response.body, FileSegment):
        segment = response.body
        try:
            return os.pread(segment.file, segment.count, segment.offset)
        finally:
            segment.close()
    assert isinstance(response.body, bytes)
    return response.body


def field(response: Response, name: str) -> str | None:
    values = [value for known, value in response.headers if known == name]
    assert len(values) < 2, f"{name} is sent twice"
    return values[0] if values else None


def got(files: Files, path: str | bytes) -> tuple[int, bytes]:
    response = ask(files, path)
    body = content(response)
    return response.status, body if response.status == 200 else b""


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root, beside which `outside/secret` lies."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "public").mkdir()
    return tmp_path / "public"


@pytest.fixture
def files(root: Path) -> Files:
    return serve(root)


def serve(root: Path, index: str = "index.html", max_age: int | None = None, mount: str = "") -> Files:
    return Files(str(root), index, max_age, mount)


# --- what is sent ---


def test_a_small_file_is_sent_as_bytes_with_type_and_validators(root: Path, files: Files) -> None:
    (root / "site.css").write_bytes(b"a {}")
    os.utime(root / "site.css", (0, 784111777))
    response = ask(files, "/site.css")
    assert (response.status, response.body) == (200, b"a {}")
    assert [name for name, _ in response.headers] == ["Content-Type", "Last-Modified", "ETag"]
    assert field(response, "Content-Type") == "text/css; charset=utf-8"
    assert field(response, "Last-Modified") == "Sun, 06 Nov 1994 08:49:37 GMT"
    etag = field(response, "ETag")
    assert etag is not None
    assert etag.startswith('"')
    assert etag.endswith('"')


def test_a_file_of_64_kib_is_bytes_and_one_byte_more_is_a_segment(root: Path, files: Files) -> None:
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
def test_head_is_answered_like_get_without_reading_the_file(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (root / "file.txt").write_bytes(b"x" * size)
    get = ask(files, "/file.txt")
    length = len(content(get))
    if size:
        monkeypatch.setattr(os, "read", lambda *_: pytest.fail("HEAD read the file"))
    head = ask(files, "/file.txt", "HEAD")
    assert (head.status, head.headers) == (get.status, get.headers)
    if isinstance(head.body, FileSegment):
        assert head.body.count == length
        head.body.close()
    else:
        assert head.body == b""
        assert length == 0


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


# --- validators ---


def test_the_etag_stays_while_the_file_does_and_is_the_same_in_every_worker(root: Path, files: Files) -> None:
    (root / "file").write_bytes(b"one")
    assert field(ask(files, "/file"), "ETag") == field(ask(serve(root), "/file"), "ETag")


def test_a_replaced_file_of_the_same_size_and_time_has_another_etag(root: Path, files: Files) -> None:
    for name, text in (("file", b"one"), ("next", b"two")):
        (root / name).write_bytes(text)
        os.utime(root / name, ns=(0, 10**18))
    before = field(ask(files, "/file"), "ETag")
    os.replace(root / "next", root / "file")
    assert field(ask(files, "/file"), "ETag") != before


def test_a_file_rewritten_within_the_second_has_another_etag(root: Path, files: Files) -> None:
    (root / "file").write_bytes(b"one")
    tags = set()
    for moment in (10**18, 10**18 + 1):
        os.utime(root / "file", ns=(0, moment))
        tags.add(field(ask(files, "/file"), "ETag"))
    assert len(tags) == 2


@pytest.mark.parametrize("seconds", [2**40, -(10**9)])
def test_last_modified_is_neither_in_the_future_nor_beyond_what_a_date_can_tell(
    root: Path, files: Files, seconds: int
) -> None:
    (root / "file").write_bytes(b"x")
    try:
        os.utime(root / "file", (0, seconds))
    except OverflowError:  # the file system's own bound
        pytest.skip("the file system has no such time")
    response = ask(files, "/file")
    modified = email.utils.parsedate_to_datetime(field(response, "Last-Modified") or "")
    now = email.utils.parsedate_to_datetime(email.utils.formatdate(usegmt=True))
    assert email.utils.parsedate_to_datetime("Thu, 01 Jan 1970 00:00:00 GMT") <= modified <= now


@pytest.fixture
def dated(root: Path) -> Files:
    (root / "file").write_bytes(b"content")
    os.utime(root / "file", (0, 784111777))  # Sun, 06 Nov 1994 08:49:37 GMT
    return serve(root, max_age=60)


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ('"other", {etag}', 304),
        ('"a,b" ,W/"c",W/{etag} , "d"', 304),
        ("*", 304),
        ('"other"', 200),
        ('W/"other"', 200),
        ('"*"', 200),
        ("", 200),
        ("unquoted", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match_compares_a_list_weakly(dated: Files, known: str, status: int, method: str) -> None:
    etag = field(ask(dated, "/file"), "ETag")
    response = ask(dated, "/file", method, if_none_match=known.format(etag=etag))
    content(response)
    assert response.status == status


def test_if_none_match_matches_no_part_of_a_tag(dated: Files) -> None:
    etag = field(ask(dated, "/file"), "ETag") or ""
    for known in (etag[1:-1], f'"{etag[2:]}', f'{etag[:-2]}"', f'"x{etag[1:]}'):
        assert ask(dated, "/file", if_none_match=known).status == 200


@pytest.mark.parametrize(
    ("since", "status"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 304),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 304),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 200),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 304),
        ("Sunday, 06-Nov-94 08:49:36 GMT", 200),
        ("Sun Nov  6 08:49:37 1994", 304),
        ("Sun Nov  6 08:49:36 1994", 200),
        ("Sun, 06 Nov 1994 20:49:37 +0200", 200),
        ("Fri, 31 Dec 9999 23:59:59 -2300", 200),
        ("Sun, 32 Nov 2094 08:49:37 GMT", 200),
        ("Sun, 06 Nov 2094 25:61:61 GMT", 200),
        ("yesterday", 200),
        ("", 200),
        ("9" * 5000, 200),
    ],
)
def test_if_modified_since_reads_every_http_date_and_ignores_the_rest(dated: Files, since: str, status: int) -> None:
    assert ask(dated, "/file", if_modified_since=since).status == status


@given(since=st.text(st.characters(max_codepoint=255), max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_if_modified_since_is_an_error(dated: Files, since: str) -> None:
    assert ask(dated, "/file", if_modified_since=since).status in (200, 304)


def test_if_modified_since_does_not_count_beside_if_none_match(dated: Files) -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert ask(dated, "/file", if_none_match='"other"', if_modified_since=date).status == 200
    etag = field(ask(dated, "/file"), "ETag") or ""
    early = "Sat, 05 Nov 1994 08:49:37 GMT"
    assert ask(dated, "/file", if_none_match=etag, if_modified_since=early).status == 304


def test_a_304_has_the_validators_and_cache_control_and_no_more(dated: Files) -> None:
    full = ask(dated, "/file")
    response = ask(dated, "/file", if_none_match="*")
    assert response.body == b""
    assert list(response.headers) == [pair for pair in full.headers if pair[0] != "Content-Type"]


def test_conditions_do_not_turn_a_404_into_a_304(files: Files) -> None:
    assert ask(files, "/missing", if_none_match="*").status == 404


# --- directories ---


def test_a_directory_without_its_slash_is_redirected_with_its_query(root: Path, files: Files) -> None:
    (root / "sub").mkdir()
    response = ask(files, "/sub", query="a=1&b=%20")
    assert (response.status, field(response, "Location")) == (301, "/sub/?a=1&b=%20")
    assert field(ask(files, "/sub"), "Location") == "/sub/"


def test_a_redirect_is_percent_encoded(root: Path, files: Files) -> None:
    (root / "a b" / "100%?#ü").mkdir(parents=True)
    assert field(ask(files, "/a b/100%?#ü"), "Location") == "/a%20b/100%25%3F%23%C3%BC/"
    (root / "a\r\nb").mkdir()
    assert field(ask(files, "/a\r\nb"), "Location") == "/a%0D%0Ab/"


@pytest.mark.parametrize("path", ["//evil", "///evil", "//evil//evil", "/\\evil", "/\\/evil", "//\\evil", "/\t/evil"])
def test_no_redirect_leads_to_another_host(root: Path, files: Files, path: str) -> None:
    (root / path.lstrip("/")).mkdir(parents=True)
    (root / "evil" / "evil").mkdir(parents=True, exist_ok=True)
    response = ask(files, path)
    assert response.status == 301
    location = field(response, "Location") or ""
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\", "/\t"))


def test_a_directory_is_answered_by_its_index(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "index.html").write_bytes(b"top")
    (root / "sub" / "index.html").write_bytes(b"below")
    response = ask(serve(root), "/sub/")
    assert (response.body, field(response, "Content-Type")) == (b"below", "text/html; charset=utf-8")
    assert got(serve(root), "/") == (200, b"top")
    assert got(serve(root, index="sub/index.html"), "/") == (200, b"below")


def test_a_directory_without_index_is_404(root: Path) -> None:
    (root / "sub" / "index.html").mkdir(parents=True)
    for index in ("index.html", "other.html", ""):
        assert got(serve(root, index=index), "/sub/")[0] == 404


def test_no_index_leads_out_of_the_root(root: Path) -> None:
    (root / "sub").mkdir()
    assert got(serve(root, index="../outside/secret"), "/")[0] == 404
    assert got(serve(root, index="../../outside/secret"), "/sub/")[0] == 404


def test_the_walk_refuses_dot_dot_by_itself(root: Path) -> None:
    (root / "sub").mkdir()
    for names in ([b"..", b"outside", b"secret"], [b"sub", b"..", b"..", b"outside", b"secret"], [b".."]):
        with pytest.raises(FileNotFoundError):
            tree.open_file(os.fsencode(root), names)


def test_a_file_is_no_directory(root: Path, files: Files) -> None:
    (root / "file").write_bytes(b"x")
    assert got(files, "/file/")[0] == 404
    assert got(files, "/file/below")[0] == 404


def test_doubled_slashes_count_as_one(root: Path, files: Files) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "file").write_bytes(b"x")
    assert got(files, "//sub///file") == (200, b"x")


def test_the_mount_is_no_part_of_the_file_name_but_of_the_redirect(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "file").write_bytes(b"x")
    mounted = serve(root, mount="/static/v1")
    assert got(mounted, "/static/v1/file") == (200, b"x")
    assert field(ask(mounted, "/static/v1/sub"), "Location") == "/static/v1/sub/"
    assert field(ask(mounted, "/static/v1"), "Location") == "/static/v1/"


# --- what is outside stays outside ---


@pytest.mark.parametrize(
    "path",
    [
        "/../outside/secret",
        "/..",
        "/../",
        "/sub/../../outside/secret",
        "/..\\outside\\secret",
        "/%2e%2e/outside/secret",
        "/%2e%2e%2foutside%2fsecret",
        "/....//outside/secret",
        "/file\0",
        "/\0",
        "/file\0/../../outside/secret",
        "//outside/secret",
    ],
)
def test_tricks_with_the_path_find_nothing(root: Path, files: Files, path: str) -> None:
    (root / "sub").mkdir()
    (root / "file").write_bytes(b"x")
    assert got(files, path)[0] == 404


def test_a_mount_that_was_cut_within_a_name_does_not_climb(root: Path) -> None:
    assert got(serve(root, mount="/static"), "/static../outside/secret")[0] == 404
    (root / ".env").write_bytes(b"x")
    assert got(serve(root, mount="/static"), "/static.env")[0] == 404


def test_an_absolute_path_below_the_root_is_not_the_real_one(root: Path, files: Files) -> None:
    assert got(files, f"/{root.parent}/outside/secret")[0] == 404


def test_symlinks_that_stay_inside_work(root: Path, files: Files) -> None:
    (root / "real" / "deep").mkdir(parents=True)
    (root / "real" / "deep" / "file.css").write_bytes(b"x")
    (root / "real" / "deep" / "index.html").write_bytes(b"index")
    (root / "relative").symlink_to("real/deep/file.css")
    (root / "absolute").symlink_to(root / "real" / "deep" / "file.css")
    (root / "dir").symlink_to("real")
    (root / "real" / "up").symlink_to("../real/deep")
    (root / "out-and-in").symlink_to(f"../{root.name}/real")
    (root / "chain").symlink_to("dir/up/../../relative")
    (root / "here").symlink_to(".")
    places = ["relative", "absolute", "dir/deep/file.css", "dir/up/file.css", "out-and-in/deep/file.css", "chain"]
    for place in [*places, "here/here/real/deep/file.css"]:
        assert got(files, f"/{place}") == (200, b"x"), place
    assert got(files, "/dir/up/") == (200, b"index")
    assert field(ask(files, "/dir/up"), "Location") == "/dir/up/"
    assert field(ask(files, "/here"), "Location") == "/here/"


def test_the_root_may_be_reached_through_symlinks_and_links_in_it_still_work(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    (root.parent / "alias").symlink_to(root)
    (root / "through-alias").symlink_to(root.parent / "alias" / "file")
    for name in ("file", "link", "through-alias"):
        assert got(serve(root.parent / "alias"), f"/{name}") == (200, b"x"), name


def test_symlinks_that_lead_out_are_404(root: Path, files: Files) -> None:
    outside = root.parent / "outside"
    (root.parent / f"{root.name}-twin").mkdir()
    (root.parent / f"{root.name}-twin" / "secret").write_bytes(SECRET)
    (outside / "index.html").write_bytes(SECRET)
    (root / "sub").mkdir()
    (root / "absolute").symlink_to(outside / "secret")
    (root / "relative").symlink_to("../outside/secret")
    (root / "sub" / "dir").symlink_to(outside)
    (root / "relative-dir").symlink_to("../outside")
    (root / "twin").symlink_to(f"../{root.name}-twin/secret")
    (root / "chain").symlink_to("sub/dir/secret")
    (root / "top").symlink_to("/")
    (root / "parent").symlink_to("..")
    names = ["absolute", "relative", "sub/dir/secret", "sub/dir/", "sub/dir", "relative-dir/secret", "twin", "chain"]
    for name in [*names, "top", "top/etc/passwd", "parent", "parent/outside/secret", f"top/{outside}/secret"]:
        assert got(files, f"/{name}")[0] == 404, name
    assert got(files, f"/parent/{root.name}/")[0] == 404  # nothing is there; and with something, it is inside
    (root / "index.html").write_bytes(b"inside")
    assert got(files, f"/parent/{root.name}/") == (200, b"inside")


def test_a_root_that_is_the_root_of_the_file_system_serves_its_links(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    assert got(serve(Path("/")), f"{root}/link") == (200, b"x")


def test_dangling_and_circular_and_endless_links_are_404(root: Path, files: Files) -> None:
    (root / "dangling").symlink_to("nothing")
    (root / "self").symlink_to("self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "link0").touch()
    for n in range(2000):  # beyond the kernel's 40, and beyond Python's recursion limit
        (root / f"link{n + 1}").symlink_to(f"link{n}")
    for name in ("dangling", "dangling/", "self", "self/below", "ping", "link2000"):
        assert got(files, f"/{name}")[0] == 404, name
    assert got(files, "/link40")[0] == 200


def test_a_long_path_through_a_link_to_itself_costs_no_more_than_the_kernel_allows(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "here").symlink_to(".")
    monkeypatch.setattr(os.path, "realpath", lambda *_: pytest.fail("resolved without a bound"))
    assert got(files, "/here" * 6000)[0] == 404


@pytest.mark.parametrize("name", [".git/config", ".env", "sub/.htpasswd", "...", ".well-known/.x", ".well-known2/x"])
def test_hidden_files_are_404(root: Path, files: Files, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")
    assert got(files, f"/{name}")[0] == 404


def test_well_known_is_not_hidden(root: Path, files: Files) -> None:
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_bytes(b"x")
    assert got(files, "/.well-known/security.txt") == (200, b"x")
    assert field(ask(files, "/.well-known"), "Location") == "/.well-known/"


def test_links_through_hidden_directories_work_as_kubernetes_mounts_them(root: Path, files: Files) -> None:
    (root / "..2024_05_01").mkdir()
    (root / "..2024_05_01" / "index.html").write_bytes(b"x")
    (root / "..data").symlink_to("..2024_05_01")
    (root / "index.html").symlink_to("..data/index.html")
    assert got(files, "/") == (200, b"x")
    assert got(files, "/..data/index.html")[0] == 404


def test_special_files_are_404_and_are_never_opened(root: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    (root / "link").symlink_to("fifo")
    (root / "device").symlink_to("/dev/null")
    opened: list[object] = []
    real_open = os.open

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(path)
        return real_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    for name in ("fifo", "socket", "link", "device"):
        assert got(files, f"/{name}")[0] == 404, name
    assert set(opened) == {os.fsencode(root)}


# --- races ---


def swapping(function: Callable[..., Any], trigger: bytes, swap: Callable[[], None], after: bool) -> Callable[..., Any]:
    """`function`, with `swap` called once: right before, or right after, its first call for the name `trigger`."""
    pending = [swap]

    def wrapper(name: Any, *rest: Any, **more: Any) -> Any:
        due = name == trigger and pending
        if due and not after:
            pending.pop()()
        try:
            return function(name, *rest, **more)
        finally:
            if due and after and pending:
                pending.pop()()

    return wrapper


def test_a_file_swapped_for_a_link_after_it_was_looked_at_is_not_followed(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"x")

    def swap() -> None:
        (root / "file").unlink()
        (root / "file").symlink_to("../outside/secret")

    monkeypatch.setattr(os, "stat", swapping(os.stat, b"file", swap, after=True))
    assert got(files, "/file")[0] == 404
    assert (root / "file").is_symlink()


def test_a_file_swapped_for_a_fifo_after_it_was_looked_at_does_not_block(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"x")

    def swap() -> None:
        (root / "file").unlink()
        os.mkfifo(root / "file")

    monkeypatch.setattr(os, "stat", swapping(os.stat, b"file", swap, after=True))
    assert got(files, "/file")[0] == 404
    assert (root / "file").is_fifo()


@pytest.mark.parametrize("after", [False, True])
def test_a_directory_swapped_for_a_link_during_the_walk_does_not_lead_out(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "secret").write_bytes(b"harmless")

    def swap() -> None:
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to("../outside")

    monkeypatch.setattr(os, "open", swapping(os.open, b"sub", swap, after))
    # Entered before the swap, it is the directory that it was; after it, it is a link that leads out.
    assert got(files, "/sub/secret") == ((200, b"harmless") if after else (404, b""))
    assert (root / "sub").is_symlink()


def test_a_place_swapped_for_a_link_after_a_link_to_it_was_resolved_is_not_followed(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "real").mkdir()
    (root / "real" / "secret").write_bytes(b"x")
    (root / "link").symlink_to("real")

    def swap() -> None:
        (root / "real").rename(root / "moved")
        (root / "real").symlink_to("../outside")

    resolved = os.path.join(os.path.realpath(os.fsencode(root)), b"link", b"secret")
    monkeypatch.setattr(os.path, "realpath", swapping(os.path.realpath, resolved, swap, after=True))
    assert got(files, "/link/secret")[0] == 404
    assert (root / "real").is_symlink()


def test_nothing_leaks_while_another_thread_swaps_files_and_links(root: Path, files: Files) -> None:
    (root / "inside").write_bytes(b"inside")
    (root / "dir").mkdir()
    (root / "dir" / "secret").write_bytes(b"inside")
    (root / "flip").write_bytes(b"inside")
    (root / "way").symlink_to("dir")
    stop = threading.Event()

    def swap() -> None:
        spare = root / "spare"
        while not stop.is_set():
            for target in ("../outside/secret", "inside"):
                spare.symlink_to(target)
                os.replace(spare, root / "flip")
            spare.write_bytes(b"inside")
            os.replace(spare, root / "flip")
            for target in ("../outside", "dir"):
                spare.symlink_to(target)
                os.replace(spare, root / "way")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = {got(files, path) for _ in range(3000) for path in ("/flip", "/way/secret")}
    finally:
        stop.set()
        swapper.join()
    assert seen <= {(200, b"inside"), (404, b"")}
    assert (200, b"inside") in seen


def test_a_file_that_shrinks_before_it_is_read_is_sent_as_long_as_it_is_and_not_to_be_cached(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file.txt").write_bytes(b"123456")
    real_fstat = os.fstat

    def fstat(file: int) -> os.stat_result:
        status = real_fstat(file)
        os.truncate(root / "file.txt", 2)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    response = ask(serve(root, max_age=60), "/file.txt")
    assert (response.status, response.body) == (200, b"12")
    assert [name for name, _ in response.headers] == ["Content-Type"]


def test_a_file_that_grows_before_it_is_read_is_sent_as_it_was(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"123")
    real_fstat = os.fstat

    def fstat(file: int) -> os.stat_result:
        status = real_fstat(file)
        (root / "file").write_bytes(b"123456")
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    assert ask(files, "/file").body == b"123"


def test_a_read_that_returns_less_is_continued(root: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_bytes(b"123456")
    real_read = os.read
    monkeypatch.setattr(os, "read", lambda file, count: real_read(file, min(count, 4)))
    assert ask(files, "/file").body == b"123456"


# --- errors ---


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_403_whatever_the_conditions() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are closed to others
        root = Path(name)
        root.chmod(0o755)
        (root / "closed").mkdir()
        (root / "closed" / "file").write_bytes(b"x")
        (root / "file").write_bytes(b"x")
        (root / "link").symlink_to("file")
        (root / "closed").chmod(0)
        (root / "file").chmod(0)
        try:
            with unprivileged():
                for path in ("/file", "/link", "/closed/file"):
                    for method in ("GET", "HEAD"):
                        assert ask(serve(root), path, method).status == 403, path
                    assert ask(serve(root), path, if_none_match="*").status == 403, path
        finally:
            (root / "closed").chmod(0o755)


def test_a_link_out_of_the_root_is_404_even_where_it_leads_is_closed() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "public").mkdir()
        (Path(name) / "closed").mkdir()
        (Path(name) / "closed" / "file").write_bytes(SECRET)
        (Path(name) / "public" / "link").symlink_to("../closed/file")
        (Path(name) / "closed").chmod(0)
        Path(name).chmod(0o755)
        try:
            with unprivileged():
                assert got(serve(Path(name) / "public"), "/link")[0] == 404
        finally:
            (Path(name) / "closed").chmod(0o755)


@pytest.mark.parametrize("path", ["/" + "x" * 256, "/" + "x" * 30000, "/x" * 15000, "/" + "x" * 256 + "/"])
def test_names_too_long_are_404(files: Files, path: str) -> None:
    assert got(files, path)[0] == 404


def test_without_descriptors_it_is_503_and_none_is_lost(root: Path, files: Files) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "file").write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    before, seen = descriptors(), []
    for spare in range(4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        try:
            seen.append(ask(files, "/sub/file").status)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == before
    assert seen == [503, 503, 200, 200]


@pytest.mark.parametrize("call", ["open", "read", "fstat"])
def test_other_errors_are_500_and_logged_with_the_target(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    (root / "a file").write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(logging.getLogger("prefork"), "propagate", True)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="prefork"):
        patch.setattr(os, call, fail)
        response = ask(files, "/a file")
    assert response.status == 500
    assert "GET /a%20file" in caplog.text
    assert "Input/output error" in caplog.text


# --- the root ---


def test_a_deploy_that_switches_the_root_is_seen_by_the_next_request(tmp_path: Path) -> None:
    for release in ("41", "42"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "file").write_text(release)
        (tmp_path / release / "link").symlink_to("file")
    (tmp_path / "current").symlink_to("41")
    files = serve(tmp_path / "current")
    assert got(files, "/file") == got(files, "/link") == (200, b"41")
    (tmp_path / "next").symlink_to("42")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert got(files, "/file") == got(files, "/link") == (200, b"42")
    (tmp_path / "42" / "old").symlink_to("../41/file")
    assert got(files, "/old")[0] == 404


def test_a_root_that_is_gone_is_404_until_it_is_back(root: Path, files: Files) -> None:
    (root / "file").write_bytes(b"x")
    root.rename(root.parent / "aside")
    assert got(files, "/file")[0] == got(files, "/")[0] == 404
    (root.parent / "aside").rename(root)
    assert got(files, "/file") == (200, b"x")


def test_a_relative_root_holds_when_the_application_changes_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"x")
    monkeypatch.chdir(root.parent)
    files = Files(root.name, "index.html", None, "")
    monkeypatch.chdir("/")
    assert got(files, "/file") == (200, b"x")


# --- everything at once ---


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose files say "inside", full of links in and out; all that is outside says SECRET."""
    base = tmp_path_factory.mktemp("maze")
    root = base / "root"
    (root / "a" / "a").mkdir(parents=True)
    for place in ("secret", "index.html", "a/secret", "a/index.html"):
        (base / place).parent.mkdir(exist_ok=True)
        (base / place).write_bytes(SECRET)
    for place in ("index.html", "a/index.html", "a/a/b", "%2e%2e"):
        (root / place).write_bytes(b"inside")
    for place, target in {
        "link": "a",
        "a/link": "../..",
        "out": "..",
        "a/out": "../../a",
        "a/up": "..",
        "top": "/",
        "b": "../secret",
        "a/b": str(base / "secret"),
        "here": ".",
    }.items():
        (root / place).symlink_to(target)
    return root


SEGMENTS = ["..", ".", "", "%2e", "%2e%2e", "..\\", "a", "b", "link", "out", "up", "top", "here", "root", "secret"]


@given(segments=st.lists(st.sampled_from([*SEGMENTS, "index.html", "\0", "ü"]), max_size=8), method=st.booleans())
@settings(max_examples=1000, deadline=None)
def test_no_path_reaches_what_is_outside(maze: Path, segments: list[str], method: bool) -> None:
    before = descriptors()
    response = ask(serve(maze), "/" + "/".join(segments), "GET" if method else "HEAD")
    assert content(response) == b"inside" if response.status == 200 else response.status in (301, 404)
    assert descriptors() == before


@pytest.mark.parametrize("without_o_path", [False, True])
def test_the_maze_can_be_walked(maze: Path, monkeypatch: pytest.MonkeyPatch, without_o_path: bool) -> None:
    if without_o_path:  # as on macOS
        monkeypatch.setattr(tree, "_DIRECTORY", os.O_RDONLY | os.O_DIRECTORY)
    for path in ("/out/secret", "/a/b", "/link/out/secret", "/top/etc/passwd", "/index.html/b"):
        assert got(serve(maze), path) == (404, b""), path
    for path in ("/", "/link/", "/link/a/b", "/here/a/up/link/a/b", "/out/root/a/a/b", "/%2e%2e"):
        assert got(serve(maze), path) == (200, b"inside"), path
