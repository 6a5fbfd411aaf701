"""The request line: RFC 9112 §3, and the path as RFC 3986 has it."""

from __future__ import annotations

import pytest

from prefork.errors import BadRequest, NotImplementedHere, VersionNotSupported
from prefork.http.h1.request_line import parse_line

# ---- its three parts: RFC 9112 §3


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "OPTIONS", "PATCH", "M-SEARCH", "get", "!#$%&'*+-.^_`|~09aZ"]
)
def test_a_method_is_any_token_and_keeps_its_case(method: str) -> None:
    line = parse_line(f"{method} / HTTP/1.1".encode())
    assert (line.method, line.target, line.path, line.query, line.version) == (method, "/", "/", "", "HTTP/1.1")


@pytest.mark.parametrize("method", ["", "G(T", "G/T", 'G"T', "G\x7fT", "G\x00T", "G\tT", "GÉT", "G:T", "G{}T", "G,T"])
def test_a_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(BadRequest):
        parse_line(f"{method} / HTTP/1.1".encode("latin-1"))


def test_a_method_has_at_most_32_characters() -> None:
    assert parse_line(b"X" * 32 + b" / HTTP/1.1").method == "X" * 32
    with pytest.raises(BadRequest):
        parse_line(b"X" * 33 + b" / HTTP/1.1")


@pytest.mark.parametrize(
    "line",
    [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET\x0b/\x0bHTTP/1.1",
        "GET /\xa0HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /",
        "GET",
        "GET ",
        "GET  HTTP/1.1",
        "GET HTTP/1.1",
        "/ HTTP/1.1",
        "HTTP/1.1",
        "",
        "GET / HTTP/1.1\r",
        "\rGET / HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET /\n HTTP/1.1",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.1\nHost: a",
    ],
)
def test_the_parts_are_separated_by_one_space_each_and_nothing_else(line: str) -> None:
    """RFC 9112 §3 allows leniency here, and warns of it in §11."""
    with pytest.raises(BadRequest):
        parse_line(line.encode("latin-1"))


@pytest.mark.parametrize("byte", [*range(0x21), 0x7F, 0x80, 0xC3, 0xFF])
def test_a_target_has_no_control_characters_spaces_or_raw_bytes_above_ascii(byte: int) -> None:
    with pytest.raises(BadRequest):
        parse_line(b"GET /a" + bytes([byte]) + b"b HTTP/1.1")


# ---- versions: RFC 9112 §2.3


@pytest.mark.parametrize(
    ("said", "meant"), [("1.0", "HTTP/1.0"), ("1.1", "HTTP/1.1"), ("1.2", "HTTP/1.1"), ("1.9", "HTTP/1.1")]
)
def test_a_minor_version_above_ours_is_read_as_ours(said: str, meant: str) -> None:
    """RFC 9110 §2.5: whoever gets a higher minor version processes it as the highest it knows."""
    line = parse_line(f"GET / HTTP/{said}".encode())
    assert (line.version, line.minor) == (meant, int(meant[-1]))


@pytest.mark.parametrize("version", ["2.0", "0.9", "3.1", "9.9"])
def test_another_major_version_is_a_505(version: str) -> None:
    with pytest.raises(VersionNotSupported) as caught:
        parse_line(f"GET / HTTP/{version}".encode())
    assert caught.value.status == 505


def test_the_preface_of_http_2_is_a_505() -> None:
    """RFC 9113 §3.4."""
    with pytest.raises(VersionNotSupported):
        parse_line(b"PRI * HTTP/2.0")


BAD_VERSIONS = ["HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/1.10", "HTTP/01.1", "HTTP/11.1", "HTTP/1,1", "HTTP 1.1"]
BAD_VERSIONS += ["HTTP/1.1.1", "http/1.1", "Http/1.1", "HTTPS/1.1", "HTTP/+1.1", "HTTP/1.-1", "HTTP/²²", "XTTP/1.1"]
BAD_VERSIONS += ["HTTP/1.1/", "HTTP/ 1.1"]


@pytest.mark.parametrize("version", BAD_VERSIONS)
def test_a_malformed_version_is_a_400(version: str) -> None:
    with pytest.raises(BadRequest):
        parse_line(f"GET / {version}".encode("latin-1"))


# ---- forms of the target: RFC 9112 §3.2


def test_origin_form_is_a_path_and_a_query() -> None:
    """RFC 9112 §3.2.1."""
    line = parse_line(b"GET /a/b.c?d=e&f?g/../h HTTP/1.1")
    assert (line.target, line.path, line.query) == ("/a/b.c?d=e&f?g/../h", "/a/b.c", "d=e&f?g/../h")
    assert line.authority == ""


@pytest.mark.parametrize(
    ("target", "authority", "path", "query"),
    [
        ("http://example.com/a?b", "example.com", "/a", "b"),
        ("http://example.com:8080/a", "example.com:8080", "/a", ""),
        ("http://example.com", "example.com", "/", ""),
        ("http://example.com?a=b", "example.com", "/", "a=b"),
        ("http://example.com?a/b", "example.com", "/", "a/b"),
        ("HTTP://example.com/", "example.com", "/", ""),
        ("https://example.com/", "example.com", "/", ""),
        ("http://[::1]:80/a", "[::1]:80", "/a", ""),
        ("http://a//b", "a", "//b", ""),
        ("http://a/http://b/", "a", "/http://b/", ""),
    ],
)
def test_absolute_form_names_the_authority(target: str, authority: str, path: str, query: str) -> None:
    """RFC 9112 §3.2.2."""
    line = parse_line(f"GET {target} HTTP/1.1".encode())
    assert (line.target, line.authority, line.decoded, line.query) == (target, authority, path, query)


BAD_TARGETS = ["http://", "http:///a", "http://?a", "http://user@host/", "http://user:secret@host/", "http://a b/"]
BAD_TARGETS += ["http:/a", "ftp://host/", "host/path", "a", "?a"]
BAD_TARGETS += ["http://[::1/", "http://a:b/", "http://a:123456/", "http://a%00/", "http://a\\b/", "http://a:80:80/"]
BAD_TARGETS += ["mailto:a", "host:80", ".", "../a", "%2f"]


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_a_target_that_is_neither_a_path_nor_an_http_url_is_refused(target: str) -> None:
    """User information in particular: RFC 9110 §4.2.4 calls it a likely attempt to obscure the authority."""
    with pytest.raises(BadRequest):
        parse_line(f"GET {target} HTTP/1.1".encode())


def test_asterisk_form_goes_with_options() -> None:
    """RFC 9112 §3.2.4."""
    line = parse_line(b"OPTIONS * HTTP/1.1")
    assert (line.target, line.path, line.query) == ("*", "*", "")


@pytest.mark.parametrize(
    "line", [b"GET * HTTP/1.1", b"options * HTTP/1.1", b"OPTIONS ** HTTP/1.1", b"OPTIONS *?a HTTP/1.1"]
)
def test_asterisk_form_goes_with_nothing_else(line: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_line(line)


@pytest.mark.parametrize("target", ["example.com:443", "/", "*", "http://example.com/"])
def test_connect_is_a_501(target: str) -> None:
    """RFC 9110 §9.3.6; its authority-form (RFC 9112 §3.2.3) goes with nothing else."""
    with pytest.raises(NotImplementedHere) as caught:
        parse_line(f"CONNECT {target} HTTP/1.1".encode())
    assert caught.value.status == 501
    with pytest.raises(BadRequest):
        parse_line(b"GET example.com:443 HTTP/1.1")


@pytest.mark.parametrize("target", ["/#", "/a#b", "/a?b#c", "http://a/#b", "http://a#b"])
def test_a_fragment_is_refused(target: str) -> None:
    """RFC 9110 §7.1: the target excludes it."""
    with pytest.raises(BadRequest):
        parse_line(f"GET {target} HTTP/1.1".encode())


# ---- the path: paths.py


def test_the_path_is_in_the_one_spelling_and_as_it_was_decoded() -> None:
    line = parse_line(b"GET /x/..//a/%2F/./b//?c//d HTTP/1.1")
    assert (line.path, line.decoded, line.query) == ("/a/b/", "//a///b//", "c//d")
    line = parse_line(b"GET http://example.com//%61 HTTP/1.1")
    assert (line.path, line.decoded) == ("/a", "//a")


def test_escapes_in_the_query_are_the_applications_business() -> None:
    assert parse_line(b"GET /?%zz%00%2e HTTP/1.1").query == "%zz%00%2e"
