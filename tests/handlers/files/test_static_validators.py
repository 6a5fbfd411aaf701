"""Static files: validators, conditional requests, directories and their index."""

from __future__ import annotations

import email.utils
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.handlers.files import tree
from prefork.handlers.files.static import Files
from tests.handlers.files.file_trees import ask, content, field, got, serve

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


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


def test_a_file_overwritten_in_place_with_its_time_and_size_kept_has_another_etag(root: Path, files: Files) -> None:
    """As `cp -p` does."""
    (root / "file").write_bytes(b"one")
    before = os.stat(root / "file")
    known = field(ask(files, "/file"), "ETag") or ""
    while os.stat(root / "file").st_ctime_ns == before.st_ctime_ns:  # the kernel's clock ticks every few milliseconds
        (root / "file").write_bytes(b"two")
        os.utime(root / "file", ns=(before.st_atime_ns, before.st_mtime_ns))
    response = ask(files, "/file", if_none_match=known)
    assert (response.status, response.body) == (200, b"two")


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
    assert list(response.headers) == [pair for pair in full.headers if pair[0] not in ("Content-Type", "Accept-Ranges")]


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
    assert got(serve(root, index=("sub/index.html",)), "/") == (200, b"below")


def test_a_directory_without_index_is_404(root: Path) -> None:
    (root / "sub" / "index.html").mkdir(parents=True)
    for index in ("index.html", "other.html", ""):
        assert got(serve(root, index=(index,)), "/sub/")[0] == 404


def test_no_index_leads_out_of_the_root(root: Path) -> None:
    (root / "sub").mkdir()
    assert got(serve(root, index=("../outside/secret",)), "/")[0] == 404
    assert got(serve(root, index=("../../outside/secret",)), "/sub/")[0] == 404


def test_the_walk_refuses_dot_dot_by_itself(root: Path) -> None:
    (root / "sub").mkdir()
    for names in ([b"..", b"outside", b"secret"], [b"sub", b"..", b"..", b"outside", b"secret"], [b".."]):
        with pytest.raises(FileNotFoundError):
            tree.Tree(os.fsencode(root)).open_file(names)


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
