"""How long a request body is: RFC 9112 §6. What two servers could read in two ways is refused (§11.2)."""

from __future__ import annotations

import pytest

from prefork.errors import BadRequest, NotImplementedHere, ProtocolError
from prefork.http.h1.fields import FieldParser, Framing
from prefork.http.h1.parse import Heads
from tests.http.conftest import parse


def framing(block: str) -> Framing:
    return FieldParser(100).parse(block.encode("latin-1"))[1]


def framing_of(data: bytes) -> Framing:
    return Heads(32768, 100).parse(data, data.index(b"\r\n\r\n"))[2]


def test_a_request_without_either_field_has_no_body() -> None:
    """RFC 9112 §6.3, rule 7."""
    found = framing("Host: a\r\n")
    assert (found.length, found.chunked, found.has_body) == (None, False, False)


# ---- Content-Length: RFC 9110 §8.6, RFC 9112 §6.3


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("1", 1), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_a_content_length_is_decimal_digits(value: str, length: int) -> None:
    found = framing(f"Content-Length: {value}\r\n")
    assert (found.length, found.chunked, found.has_body) == (length, False, length > 0)


BAD_LENGTHS = ["", "+5", "-5", "-0", "5.0", "0x5", "5,", ",5", "5 5", "5;", "5e1", "1_0", "five", "²", "\xb2"]
BAD_LENGTHS += ["5\xa0", "'5'", '"5"', "1" * 19, "0" * 19, "9" * 5000, "5\t5", "5 ,", "NaN", "\x85" + "5"]


@pytest.mark.parametrize("value", BAD_LENGTHS)
def test_anything_else_in_a_content_length_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        framing(f"Content-Length: {value}\r\n")


@pytest.mark.parametrize("block", ["Content-Length: 5\r\nContent-Length: {}\r\n", "Content-Length: 5, {}\r\n"])
@pytest.mark.parametrize("second", ["5", "6", "0", "05", ""])
def test_several_content_lengths_are_refused_even_where_they_agree(block: str, second: str) -> None:
    """RFC 9112 §6.3 leaves a choice where they agree."""
    with pytest.raises(BadRequest):
        framing(block.format(second))


# ---- Transfer-Encoding: RFC 9112 §6.1


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED", " \tchunked \t"])
def test_chunked_is_the_coding_that_is_known(value: str) -> None:
    found = framing(f"Transfer-Encoding: {value}\r\n")
    assert (found.length, found.chunked, found.has_body) == (None, True, True)


BAD_CODINGS = ["", "identity", "gzip", "xchunked", "chunkedx", "chunked, gzip", "chunked,", ",chunked,"]
BAD_CODINGS += ["chunked;a=b", "'chunked'", '"chunked"', "chunked chunked", "chunked\xa0", "\x85chunked"]
BAD_CODINGS += ["chunked, identity", "chun ked", "chunked;"]


@pytest.mark.parametrize("value", BAD_CODINGS)
def test_a_coding_that_does_not_end_in_chunked_is_refused(value: str) -> None:
    """RFC 9112 §6.3, rule 4: the length cannot be told reliably."""
    with pytest.raises(BadRequest):
        framing(f"Transfer-Encoding: {value}\r\n")


@pytest.mark.parametrize(
    "block", ["chunked, chunked\r\n", "chunked\r\nTransfer-Encoding: chunked\r\n", "CHUNKED,gzip,chunked\r\n"]
)
def test_chunked_twice_is_refused(block: str) -> None:
    """RFC 9112 §6.1: MUST NOT be applied more than once."""
    with pytest.raises(BadRequest):
        framing(f"Transfer-Encoding: {block}")


@pytest.mark.parametrize(
    "block", ["gzip, chunked\r\n", "gzip\r\nTransfer-Encoding: chunked\r\n", "identity, chunked\r\n", "x,chunked\r\n"]
)
def test_another_coding_below_chunked_is_a_501(block: str) -> None:
    """RFC 9112 §6.1."""
    with pytest.raises(NotImplementedHere) as caught:
        framing(f"Transfer-Encoding: {block}")
    assert caught.value.status == 501


@pytest.mark.parametrize("length", ["0", "5", "x", ""])
@pytest.mark.parametrize("first", ["length", "coding"])
def test_transfer_encoding_and_content_length_together_are_refused(length: str, first: str) -> None:
    """RFC 9112 §6.1: one of the two ways in which requests are smuggled."""
    lines = [f"Content-Length: {length}\r\n", "Transfer-Encoding: chunked\r\n"]
    with pytest.raises(BadRequest):
        framing("A: b\r\n".join(lines if first == "length" else lines[::-1]))


@pytest.mark.parametrize("name", ["Transfer_Encoding", "X-Transfer-Encoding", "Transfer-Encodin", "Content_Length"])
def test_a_field_that_only_looks_alike_frames_nothing(name: str) -> None:
    assert not framing(f"{name}: chunked\r\n").has_body


def test_a_transfer_encoding_in_http_1_0_is_refused() -> None:
    """RFC 9112 §6.1: its framing MUST be treated as faulty."""
    with pytest.raises(BadRequest):
        parse(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_a_content_length_in_http_1_0_is_not() -> None:
    assert framing_of(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n").length == 5


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "X"])
def test_framing_does_not_depend_on_the_method(method: str) -> None:
    """RFC 9112 §6: a body's presence is signalled by these fields alone."""
    assert framing_of(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n".encode()).has_body


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("Content-Length: 3x\r\n", "an invalid Content-Length (RFC 9110 §8.6): '3x'"),
        ("Content-Length: 3\r\ncontent-length: 4\r\n", "2 Content-Length fields (RFC 9110 §8.6): '3', '4'"),
        ("Content-Length: 3\r\n" * 5, "5 Content-Length fields (RFC 9110 §8.6): '3', '3', '3'"),
        ("Host: a/b\r\n", "an invalid Host (RFC 9112 §3.2): 'a/b'"),
        ("Host: a\r\nHost: b\r\n", "2 Host fields (RFC 9112 §3.2): 'a', 'b'"),
        ("Host: a\r\nX : y\r\n", "a malformed field line (RFC 9112 §5): b'X : y'"),
        ("X: a\x01" + "b" * 100 + "\r\n", f"a malformed field line (RFC 9112 §5): b'X: a\\x01{'b' * 55}'..."),
        (
            "Transfer-Encoding: gzip\r\n",
            "a Transfer-Encoding that does not end in one chunked (RFC 9112 §6.3): 'gzip'",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_has_come(lines: str, told: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        framing(lines)
    assert str(caught.value) == told
