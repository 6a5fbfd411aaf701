"""Field lines and what concerns the connection: RFC 9112 §5, RFC 9110 §5, §7.2, §7.6.1, §10.1.1."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.bounded import NAMES
from prefork.errors import BadRequest, ExpectationFailed, HeadTooLarge
from prefork.http.h1.fields import FieldParser, Framing
from prefork.http.message import Headers
from tests.http.conftest import parse


def fields(block: str) -> Headers:
    return FieldParser(100).parse(block.encode("latin-1"))[0]


def framing(block: str) -> Framing:
    return FieldParser(100).parse(block.encode("latin-1"))[1]


# ---- syntax: RFC 9112 §5, RFC 9110 §5


def test_fields_are_kept_in_their_order_with_names_in_lower_case() -> None:
    headers = fields("B: 1\r\na: 2\r\nb: 3\r\n")
    assert headers.pairs == (("b", "1"), ("a", "2"), ("b", "3"))


def test_repeated_fields_are_joined_by_a_comma_and_cookies_by_a_semicolon() -> None:
    """RFC 9110 §5.3, RFC 6265 §5.4."""
    headers = fields("A: 1\r\nCookie: a=1\r\na: 2\r\nCOOKIE: b=2\r\nA: 3\r\n")
    assert headers.get("a") == "1, 2, 3"
    assert headers.get("cookie") == "a=1; b=2"
    assert headers.get("b", "none") == "none"
    assert "a" in headers
    assert "b" not in headers


@pytest.mark.parametrize("value", ["", "a", "a b", "a:b", "a\tb", "\x80\xff", "é", "a, b", '"q"', "!~"])
def test_a_value_may_be_anything_visible_with_blanks_and_obs_text(value: str) -> None:
    """RFC 9110 §5.5."""
    assert fields(f"A:{value}\r\n").pairs == (("a", value),)


@pytest.mark.parametrize("line", ["A:b", "A: b", "A:   b", "A:\tb", "A:b ", "A: \t b \t ", "A:b\t"])
def test_blanks_around_a_value_are_not_part_of_it(line: str) -> None:
    """RFC 9110 §5.5."""
    assert fields(f"{line}\r\n").pairs == (("a", "b"),)


def test_only_space_and_tab_are_blanks() -> None:
    """Python's idea of white space has more of them."""
    assert fields("A: \xa0b\x85\r\n").pairs == (("a", "\xa0b\x85"),)


@pytest.mark.parametrize("name", ["A", "x-y_z", "!#$%&'*+-.^_`|~", "0"])
def test_a_name_is_a_token(name: str) -> None:
    """RFC 9110 §5.1."""
    assert fields(f"{name}: a\r\n").pairs == ((name.lower(), "a"),)


@pytest.mark.parametrize(
    "name", ["", "A B", "A\t", "é", "A/B", "A;", "A\x00", "A\x7f", "(A)", '"A"', "A,B", "A@", "[A]", "{A}"]
)
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        fields(f"{name}: a\r\n")


@pytest.mark.parametrize("line", ["A : b", "A\t: b", "A\x0b: b", "Content-Length : 5", "Transfer-Encoding\t: chunked"])
def test_white_space_before_the_colon_is_refused(line: str) -> None:
    """RFC 9112 §5.1: MUST be answered by a 400; it has been used to smuggle requests."""
    with pytest.raises(BadRequest):
        fields(f"{line}\r\n")


@pytest.mark.parametrize(
    "block", ["A: b\r\n c\r\n", "A: b\r\n\tc\r\n", " A: b\r\n", "A: b\r\n \r\n", "A:\r\n b: c\r\n"]
)
def test_line_folding_is_refused(block: str) -> None:
    """RFC 9112 §5.2."""
    with pytest.raises(BadRequest):
        fields(block)


@pytest.mark.parametrize("block", ["A\r\n", "A b\r\n", "A: b\r\nC\r\n", "\r\nA: b\r\n", "=\r\n"])
def test_a_line_without_a_colon_is_refused(block: str) -> None:
    with pytest.raises(BadRequest):
        fields(block)


@pytest.mark.parametrize("byte", [byte for byte in range(0x20) if byte != 0x09] + [0x7F])
@pytest.mark.parametrize("line", ["A: b%sc", "A:%s", "A%s: b", "A: b%s"])
def test_control_characters_are_refused_cr_lf_and_nul_among_them(byte: int, line: str) -> None:
    """RFC 9110 §5.5: CR, LF and NUL MUST be refused or replaced; RFC 9112 §2.2: a bare CR too."""
    with pytest.raises(BadRequest):
        fields(line % chr(byte) + "\r\n")


@pytest.mark.parametrize(
    "head", [b"\nHost: a", b"\r\nHost: a\nB: c", b"\r\nHost: a\rB: c", b"\r\nHost: a\r\nB: c\r", b"\rHost: a"]
)
def test_lines_end_with_cr_lf_and_nothing_less(head: bytes) -> None:
    """RFC 9112 §2.2 allows a bare LF; two servers that differ about it read two different heads (§11.2)."""
    with pytest.raises(BadRequest):
        parse(b"GET / HTTP/1.1" + head + b"\r\n\r\n")


def test_max_fields_counts_lines() -> None:
    """RFC 6585 §5."""
    assert len(FieldParser(7).parse(b"A: b\r\n" * 7)[0].pairs) == 7
    with pytest.raises(HeadTooLarge) as caught:
        FieldParser(7).parse(b"A: b\r\n" * 8)
    assert caught.value.status == 431


def test_too_many_fields_are_counted_before_they_are_looked_at() -> None:
    with pytest.raises(HeadTooLarge):
        FieldParser(7).parse(b"not a field\r\n" * 8)


# ---- both ways of parsing

FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n")
PIECES = [b"Host: a\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", b"A", b"a", b": ", b":", b" ", b"  ", b"\t", b"b c"]
PIECES += [
    b"\r\n",
    b"\r",
    b"\n",
    b"\x00",
    b"\x7f",
    b"\x85",
    b"\xa0",
    b"(",
    b"A: b\r\n",
    b"A : b\r\n",
    b"A:b\r\n",
    b"A:\r\n",
]


def by_the_rule(block: bytes) -> list[tuple[str, str]] | None:
    """The fields of a block by RFC 9112 §5 alone; None where it is not valid."""
    pairs, at = [], 0
    while at < len(block):
        match = FIELD.match(block, at)
        if match is None:
            return None
        pairs.append((match[1].decode().lower(), match[2].decode("latin-1").strip(" \t")))
        at = match.end()
    return pairs


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=12).map(b"".join))
def test_every_block_is_read_as_the_rule_says(block: bytes) -> None:
    block = b"Z: " + block + b"\r\n"
    expected = by_the_rule(block)
    for parser in (KNOWING, FieldParser(100)):
        try:
            headers = parser.parse(block)[0]
        except BadRequest as error:
            if expected is not None and "Host" not in str(error):
                raise
        else:
            assert list(headers.pairs) == expected
            assert headers.proxy_fields == {"x-forwarded-for"} & headers.fields.keys()


KNOWING = FieldParser(100)
KNOWING.parse(b"Host: a\r\nA: b\r\nX-Forwarded-For: 1.2.3.4\r\n")


def test_a_client_that_makes_up_names_cannot_hide_a_proxys_field() -> None:
    """The table of names is emptied when it is full, and that may happen within a block."""
    parser = FieldParser(100)
    for number in range(0, 3 * NAMES, 90):
        made_up = b"".join(b"X-%d: a\r\n" % each for each in range(number, number + 90))
        for block in (b"X-Forwarded-For: a\r\n" + made_up, made_up + b"X-Forwarded-For: a\r\n"):
            headers = parser.parse(block)[0]
            assert headers.proxy_fields == {"x-forwarded-for"}
            assert len(headers.pairs) == 91


def test_a_long_name_is_a_proxys_too() -> None:
    name = f"x-forwarded-{'y' * 200}"
    assert fields(f"{name.title()}: a\r\n").proxy_fields == {name}


# ---- Host: RFC 9112 §3.2, RFC 9110 §7.2


HOSTS = ["a", "example.com", "EXAMPLE.com:80", "127.0.0.1:8000", "[::1]", "[2001:db8::1]:443", "a_b"]
HOSTS += ["xn--bcher-kva.ch", "a:", "localhost.", "a~b", "$x", "a,b;c"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host: str) -> None:
    assert fields(f"Host: {host}\r\n").get("host") == host


BAD_HOSTS = ["", ":80", "a b", "a/b", "a@b", "user:pass@a", "a:b", "a:80:80", "a:123456", "[::1", "::1", "[::g]"]
BAD_HOSTS += ["[]", "a\\b", "http://a", "a?b", "a#b", "é", "a\tb", "a%00b", "a%41", '"a"', "<a>"]
BAD_HOSTS += ["[::1]a", "a[::1]", "a:8 0", "a:+80"]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_an_invalid_host_is_refused(host: str) -> None:
    """RFC 9112 §3.2: an invalid field value MUST be answered by a 400."""
    with pytest.raises(BadRequest):
        fields(f"Host: {host}\r\n")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_http_1_1_without_host_is_refused(version: str) -> None:
    with pytest.raises(BadRequest):
        parse(f"GET / HTTP/{version}\r\nA: b\r\n\r\n".encode())
    with pytest.raises(BadRequest):
        parse(f"GET / HTTP/{version}\r\n\r\n".encode())


def test_http_1_0_needs_no_host() -> None:
    line, headers = parse(b"GET / HTTP/1.0\r\n\r\n")
    assert (line.minor, headers.pairs) == (0, ())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("second", ["a", "b", "", "A"])
def test_more_than_one_host_is_refused(version: str, second: str) -> None:
    with pytest.raises(BadRequest):
        parse(f"GET / HTTP/{version}\r\nHost: a\r\nhost: {second}\r\n\r\n".encode())


def test_an_absolute_target_needs_a_host_all_the_same() -> None:
    """RFC 9112 §3.2.2: the client MUST send one."""
    with pytest.raises(BadRequest):
        parse(b"GET http://a/ HTTP/1.1\r\n\r\n")


# ---- persistence: RFC 9112 §9.3


@pytest.mark.parametrize(
    ("block", "keep_alive"),
    [
        ("", None),
        ("Connection: close\r\n", False),
        ("Connection: Close\r\n", False),
        ("Connection: keep-alive\r\n", True),
        ("Connection: Keep-Alive\r\n", True),
        ("Connection: upgrade\r\n", None),
        ("Connection:\r\n", None),
        ("Connection: keep-alive, close\r\n", False),
        ("Connection: close, keep-alive\r\n", False),
        ("Connection: keep-alive\r\nConnection: close\r\n", False),
        ("Connection: ,,\t close ,x\r\n", False),
        ("Connection: not-close\r\n", None),
        ("Connection: closed\r\n", None),
        ("Keep-Alive: timeout=5\r\n", None),
    ],
)
def test_connection_options_are_a_list_and_close_wins(block: str, keep_alive: bool | None) -> None:
    assert framing(block).keep_alive is keep_alive


# ---- Expect: RFC 9110 §10.1.1


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
def test_an_expectation_of_100_continue_is_noted(value: str) -> None:
    assert framing(f"Expect: {value}\r\n").expects_continue
    assert not framing("A: b\r\n").expects_continue


@pytest.mark.parametrize("value", ["200-ok", "100-continue, x", "100-continue;q=1", "100"])
def test_any_other_expectation_is_a_417(value: str) -> None:
    with pytest.raises(ExpectationFailed) as caught:
        fields(f"Expect: {value}\r\n")
    assert caught.value.status == 417
