"""Byte ranges: what is asked for, and one or several of them as an answer."""

from __future__ import annotations

import asyncio
import email.parser
import os
from email.policy import HTTP
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.handlers.files.representation import SMALL
from prefork.handlers.files.static import Files
from prefork.http.message import Response
from prefork.http.ranges import parse
from tests.handlers.files.file_trees import ask, content, field, serve

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

LARGE = bytes(range(250)) * (SMALL // 100)


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=0-100", [(0, 100)]),
        ("bytes=90-", [(90, 10)]),
        ("bytes=-1", [(99, 1)]),
        ("bytes=-1000", [(0, 100)]),
        ("BYTES = 1-2 , 5-6", [(1, 2), (5, 2)]),
        ("bytes=5-6,1-2", [(5, 2), (1, 2)]),
        ("bytes=,1-2,", [(1, 2)]),
        ("bytes=1-2,100-", [(1, 2)]),
        ("bytes=99999999999999999-", []),
        ("bytes=100-", []),
        ("bytes=-0", []),
        ("bytes=200-300,-0", []),
        ("bytes=2-1", None),
        ("bytes=1-2,2-1", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=1-2-3", None),
        ("bytes=+1-2", None),
        ("bytes=1 -2", None),
        ("bytes=²-", None),
        ("bytes 1-2", None),
        ("items=1-2", None),
        ("1-2", None),
        ("", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("bytes=0-,0-", None),  # more than the whole
        ("bytes=0-60,40-99", None),
        ("bytes=" + "1-1," * 11, None),  # more than are allowed
    ],
)
def test_the_ranges_of_100_bytes(value: str, ranges: list[tuple[int, int]] | None) -> None:
    assert parse(value, 100, 10) == ranges


def test_empty_members_are_read_over_within_reason() -> None:
    assert parse("bytes=" + "," * 20 + "0-1", 100, 10) == [(0, 2)]
    assert parse("bytes=" + "," * 21 + "0-1", 100, 10) is None


def test_of_an_empty_file_no_range_is_asked_for() -> None:
    assert parse("bytes=0-", 0, 10) is parse("bytes=-1", 0, 10) is None


@given(value=st.text("bytes=0123456789-, ", max_size=40), size=st.integers(0, 1000))
def test_whatever_comes_no_range_is_empty_or_outside(value: str, size: int) -> None:
    for offset, count in parse(f"bytes={value}", size, 5) or []:
        assert count > 0
        assert 0 <= offset <= offset + count <= size


@pytest.fixture(params=[b"0123456789", LARGE], ids=["small", "large"])
def whole(root: Path, request: pytest.FixtureRequest) -> bytes:
    data: bytes = request.param
    (root / "file.txt").write_bytes(data)
    return data


@pytest.fixture
def files(root: Path) -> Files:
    return serve(root, max_age=60)


def all_of(response: Response) -> bytes:
    """The body, pieces included."""

    async def collect() -> bytes:
        body = response.body
        try:
            return b"".join([piece async for piece in body])  # type: ignore[union-attr]
        finally:
            await body.aclose()  # type: ignore[union-attr]

    return asyncio.run(collect()) if hasattr(response.body, "aclose") else content(response)


def test_one_range_is_206_with_its_place_and_the_validators(files: Files, whole: bytes) -> None:
    full = ask(files, "/file.txt")
    content(full)
    response = ask(files, "/file.txt", range="bytes=2-5")
    assert (response.status, content(response)) == (206, whole[2:6])
    assert field(response, "Content-Range") == f"bytes 2-5/{len(whole)}"
    for name in ("ETag", "Last-Modified", "Cache-Control", "Content-Type"):
        assert field(response, name) == field(full, name), name


def test_a_suffix_is_its_end(files: Files, whole: bytes) -> None:
    response = ask(files, "/file.txt", range="bytes=-3")
    assert (response.status, content(response)) == (206, whole[-3:])


def test_several_ranges_are_a_multipart_body(files: Files, whole: bytes) -> None:
    size = len(whole)
    response = ask(files, "/file.txt", range=f"bytes=0-1,4-4,{size - 2}-")
    body = all_of(response)
    assert response.status == 206
    kind = field(response, "Content-Type")
    assert kind is not None
    assert kind.startswith("multipart/byteranges; boundary=")
    assert field(response, "Content-Range") is None
    length = field(response, "Content-Length")
    assert length is None or int(length) == len(body)
    message = email.parser.BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    parts = [
        (part["Content-Range"], part.get_content_type(), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]
    text = "text/plain"
    assert parts == [
        (f"bytes 0-1/{size}", text, whole[:2]),
        (f"bytes 4-4/{size}", text, whole[4:5]),
        (f"bytes {size - 2}-{size - 1}/{size}", text, whole[-2:]),
    ]


def test_two_answers_have_two_boundaries(files: Files, whole: bytes) -> None:
    kinds = set()
    for _ in range(2):
        response = ask(files, "/file.txt", range="bytes=0-1,4-4")
        all_of(response)
        kinds.add(field(response, "Content-Type"))
    assert len(kinds) == 2


def test_what_is_not_there_is_416_with_the_size(files: Files, whole: bytes) -> None:
    response = ask(files, "/file.txt", range=f"bytes={len(whole)}-")
    assert (response.status, field(response, "Content-Range")) == (416, f"bytes */{len(whole)}")


@pytest.mark.parametrize("value", ["bytes=5-2", "lines=1-2", "bytes=0-,0-"])
def test_a_range_that_says_nothing_is_ignored(files: Files, whole: bytes, value: str) -> None:
    response = ask(files, "/file.txt", range=value)
    assert (response.status, content(response)) == (200, whole)
    assert field(response, "Accept-Ranges") == "bytes"


def test_of_an_empty_file_there_is_the_whole(root: Path) -> None:
    (root / "empty").touch()
    for value in ("bytes=0-", "bytes=0-9", "bytes=-5"):
        assert ask(serve(root), "/empty", range=value).status == 200


def test_only_get_has_ranges(files: Files, whole: bytes) -> None:
    response = ask(files, "/file.txt", "HEAD", range="bytes=1-2")
    assert response.status == 200
    content(response)


def test_if_range_of_another_version_gets_the_whole(files: Files, whole: bytes) -> None:
    full = ask(files, "/file.txt")
    content(full)
    etag, modified = field(full, "ETag") or "", field(full, "Last-Modified") or ""
    for known, status in ((etag, 206), (modified, 200), ('"other"', 200), (f"W/{etag}", 200)):
        response = ask(files, "/file.txt", range="bytes=0-0", if_range=known)
        assert response.status == status, known
        content(response)


def test_a_precondition_comes_before_the_range(files: Files, whole: bytes) -> None:
    assert ask(files, "/file.txt", range="bytes=0-0", if_match='"other"').status == 412
    assert ask(files, "/file.txt", range="bytes=0-0", if_none_match="*").status == 304


def test_a_file_that_shrinks_under_several_ranges_is_an_error_and_leaves_nothing_open(root: Path, files: Files) -> None:
    (root / "file.txt").write_bytes(LARGE)
    response = ask(files, "/file.txt", range=f"bytes=0-9,{len(LARGE) - 10}-")
    os.truncate(root / "file.txt", 100)
    with pytest.raises(EOFError):
        all_of(response)
