"""Negotiation: Accept-Encoding, as RFC 9110 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.http.negotiation import IDENTITY, best, preference

ALL = ("zstd", "br", "gzip")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", IDENTITY),
        ("gzip", "gzip"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("br;q=0.9, gzip", "gzip"),
        ("gzip;q=0.5, br;q=0.50, zstd;q=0.4", "br"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0", IDENTITY),
        ("gzip;q=0.000, br;q=0", IDENTITY),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip ; Q=1.000", "gzip"),
        ("gzip\t;\tq=0.8,\tbr;q=0.7", "gzip"),
        (", gzip,,", "gzip"),
        ("deflate, compress", IDENTITY),
        ("*", "zstd"),
        ("*;q=0.1", "zstd"),
        ("zstd;q=0, *", "br"),
        ("gzip, *;q=0.5", "gzip"),
        ("gzip, *;q=0", "gzip"),
        ("identity", IDENTITY),
        ("identity, gzip", "gzip"),
        ("identity, gzip;q=0.5", IDENTITY),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0.5, *;q=0.4", IDENTITY),
        ("identity;q=0.5, *;q=0", IDENTITY),
        ("identity;q=0", None),
        ("*;q=0", None),
        ("deflate, identity;q=0", None),
        ("gzip, identity;q=0", "gzip"),
        ("*, identity;q=0", "zstd"),
    ],
)
def test_the_best_of_three_codings(accept: str, chosen: str | None) -> None:
    assert best(accept, ALL) == chosen


@pytest.mark.parametrize(
    "member",
    ["gzip;q=2", "gzip;q=-1", "gzip;q=0.1234", "gzip;q=1.5", "gzip;q=", "gzip;q=x", "gzip;q=.5", "g zip", "gzip;"],
)
def test_a_member_that_is_no_http_is_not_acceptable(member: str) -> None:
    assert best(member, ALL) == IDENTITY
    assert best(f"{member}, br;q=0.1", ALL) == "br"


def test_where_nothing_is_available_it_is_identity_unless_that_is_excluded() -> None:
    assert best("gzip, br", ()) == IDENTITY
    assert best("gzip, identity;q=0", ()) is None


@given(st.text("gzipbr*;q=01., \t-identy", max_size=400))
def test_whatever_comes_the_answer_is_one_of_those_available_or_none(accept: str) -> None:
    assert best(accept, ALL) in (*ALL, IDENTITY, None)


@pytest.mark.parametrize("other", ["", "a", "a;q=0.1", "*/x"])
def test_what_stands_behind_a_hundred_others_is_not_looked_at(other: str) -> None:
    """There is room for 16,000 in a head, and to look at each takes a microsecond."""
    ninety_nine, hundred = f"{other}," * 99, f"{other}," * 100
    assert best(f"{ninety_nine}gzip", ("gzip",)) == "gzip"
    assert best(f"{hundred}gzip", ("gzip",)) == IDENTITY
    assert preference(f"{ninety_nine}text/html", "text/html") == (1.0, 2)
    assert preference(f"{hundred}text/html", "text/html") == (0.0, -1)


@pytest.mark.parametrize(
    ("accept", "weight"),
    [
        ("text/html;q=0.5", 0.5),
        ("text/html ; a=b ;q=0.5; c", 0.5),
        ("text/html;q=0", 0.0),
        ("text/html;q=2", 1.0),
        ("text/html;eq=0.5", 1.0),
        ("text/html;q=0.5;q=0.7", 0.5),
        ("text/html;q=2;q=0.7", 0.7),
        ("text/html;;;", 1.0),
    ],
)
def test_the_weight_of_a_media_range_is_its_first_valid_q(accept: str, weight: float) -> None:
    assert preference(accept, "text/html")[0] == weight
