"""The path of a target: RFC 3986, and the one spelling that a request is routed by."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import BadRequest
from prefork.http.paths import below, decode, merge


@pytest.mark.parametrize(
    ("path", "decoded"),
    [
        ("/%41%62", "/Ab"),
        ("/a%2Fb", "/a/b"),
        ("/a%2fb", "/a/b"),
        ("/%e2%82%ac", "/\xe2\x82\xac"),
        ("/%FF", "/\xff"),
        ("/%2541", "/%41"),
        ("/%252e%252e/a", "/%2e%2e/a"),
        ("/a%3Fb%23c", "/a?b#c"),
        ("/a%20b+c", "/a b+c"),
        ("/a%0d%0ab", "/a\r\nb"),
    ],
)
def test_percent_escapes_are_decoded_once(path: str, decoded: str) -> None:
    """RFC 3986 §2.4."""
    assert decode(path) == decoded


@pytest.mark.parametrize("path", ["/%", "/%4", "/%zz", "/%4g", "/%g4", "/a%", "/%%41", "/%u0041", "/%+1", "/% 1"])
def test_a_malformed_escape_is_refused(path: str) -> None:
    """RFC 3986 §2.1."""
    with pytest.raises(BadRequest):
        decode(path)


@pytest.mark.parametrize("path", ["/%00", "/a%00.txt", "/%41%00"])
def test_a_nul_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        decode(path)


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/.", "/"),
        ("/./", "/"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/a%2f..%2fb", "/b"),
        ("/a//../b", "/b"),
        ("/a/b//../../c", "/c"),
        ("/a//b/../c", "/a//c"),
        ("/x/..//a", "//a"),
        ("/a///..", "/"),
        ("/a/b/../../c", "/c"),
        ("/a//./b", "/a//b"),
        ("/.a/..b/c./d../...", "/.a/..b/c./d../..."),
        ("/a..", "/a.."),
        ("//a", "//a"),
        ("/a//b/", "/a//b/"),
        ("/a/..;x/b", "/a/..;x/b"),
        ("/a\\..\\b", "/a\\..\\b"),
    ],
)
def test_dot_segments_are_resolved(path: str, resolved: str) -> None:
    """RFC 3986 §5.2.4; also those that were escaped, since escaping "." changes nothing (§6.2.2.2)."""
    assert decode(path) == resolved


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../",
        "/../a",
        "/a/../..",
        "/a/../../a",
        "/%2e%2e/a",
        "/a/%2e%2e%2f..",
        "/./..",
        "//..",
        "//../a",
        "/a//../..//a",
    ],
)
def test_a_path_that_climbs_above_the_root_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        decode(path)


@given(st.text(alphabet="./ab%2eE\\5?0f", max_size=30).map(lambda text: "/" + text))
def test_a_normalised_path_starts_with_a_slash_and_has_no_dot_segments(path: str) -> None:
    try:
        normal = decode(path)
    except BadRequest:
        return
    assert normal.startswith("/")
    assert "\0" not in normal
    assert {".", ".."}.isdisjoint(normal.split("/"))


@given(st.lists(st.sampled_from(["a", "b", "", ".", ".."]), max_size=12))
def test_the_one_spelling_is_that_of_merged_slashes_and_then_rfc_3986(segments: list[str]) -> None:
    """Against §5.2.4 taken literally, for what is left once slashes are merged."""
    path = "/" + "/".join(segments)
    rest, climbs = re.sub("/+", "/", path), False
    output: list[str] = []
    while rest:
        if rest.startswith("/./") or rest == "/.":
            rest = "/" + rest[3:]
        elif rest.startswith("/../") or rest == "/..":
            rest = "/" + rest[4:]
            climbs = climbs or not output
            output[-1:] = []
        else:
            end = rest.find("/", 1)
            end = len(rest) if end < 0 else end
            output.append(rest[:end])
            rest = rest[end:]
    if climbs:
        with pytest.raises(BadRequest):
            decode(path)
    else:
        assert merge(decode(path)) == "".join(output)


@given(st.lists(st.sampled_from(["a", "b", ""]), max_size=8), st.integers(0, 3))
def test_a_mount_and_what_is_below_it_are_the_path_again(segments: list[str], depth: int) -> None:
    path = "/" + "/".join(segments)
    names = [segment for segment in segments if segment][:depth]
    mount = "".join(f"/{name}" for name in names)
    rest = below(path, mount)
    assert path.endswith(rest)
    assert rest[:1] in ("", "/")
    assert merge(mount + rest) == merge(path)


@pytest.mark.parametrize(
    ("path", "mount", "rest"),
    [
        ("//app//x", "/app", "//x"),
        ("/app", "/app", ""),
        ("//app", "/app", ""),
        ("///a//b/", "/a/b", "/"),
        ("//x", "", "//x"),
        ("//app/app/x", "/app", "/app/x"),
    ],
)
def test_below_a_mount_slashes_are_as_they_came(path: str, mount: str, rest: str) -> None:
    assert below(path, mount) == rest
