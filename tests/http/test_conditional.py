"""Conditional requests: RFC 9110 §13, in its order."""

from __future__ import annotations

import pytest

from prefork.http.conditional import precondition, range_holds, unencoded_tags

ETAG = '"a-b-c"'
MODIFIED = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE, AFTER = "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"


def judged(**fields: str) -> int:
    return precondition({name.replace("_", "-"): value for name, value in fields.items()}, ETAG, MODIFIED)


@pytest.mark.parametrize(
    ("known", "status"),
    [
        (ETAG, 200),
        ("*", 200),
        (f'"x", {ETAG}', 200),
        (f"W/{ETAG}", 412),  # a strong comparison: §13.1.1
        (f'W/{ETAG}, "x"', 412),
        ('"x"', 412),
        ("a-b-c", 412),
        ("", 412),
    ],
)
def test_if_match_compares_strongly(known: str, status: int) -> None:
    assert judged(if_match=known) == status


@pytest.mark.parametrize(
    ("date", "status"), [(BEFORE, 412), (MODIFIED, 200), (AFTER, 200), ("yesterday", 200), ("", 200)]
)
def test_if_unmodified_since_fails_for_a_later_version_only(date: str, status: int) -> None:
    assert judged(if_unmodified_since=date) == status


def test_if_unmodified_since_does_not_count_beside_if_match() -> None:
    assert judged(if_match=ETAG, if_unmodified_since=BEFORE) == 200
    assert judged(if_match='"x"', if_unmodified_since=AFTER) == 412


def test_if_match_comes_before_if_none_match() -> None:
    assert judged(if_match='"x"', if_none_match=ETAG) == 412
    assert judged(if_unmodified_since=BEFORE, if_none_match=ETAG) == 412
    assert judged(if_match=ETAG, if_none_match=ETAG) == 304
    assert judged(if_match=ETAG, if_none_match='"x"') == 200


@pytest.mark.parametrize(
    ("known", "holds"),
    [
        (ETAG, True),
        (f"W/{ETAG}", False),
        ('"x"', False),
        (MODIFIED, False),  # strong only if it was sent a second later or more: §8.8.2.2
        (BEFORE, False),
        (AFTER, False),
        ("", False),
    ],
)
def test_if_range_names_this_very_version(known: str, holds: bool) -> None:
    assert range_holds({"if-range": known}, ETAG) == holds


def test_without_if_range_a_range_holds() -> None:
    assert range_holds({}, ETAG)


@pytest.mark.parametrize("other", ['""', '"x"', f'W/{ETAG[:-1]}x"'])
def test_a_tag_behind_a_hundred_others_is_not_seen(other: str) -> None:
    """There is room for 10,000 in a head."""
    ninety_nine, hundred = f"{other}, " * 99, f"{other}, " * 100
    assert judged(if_none_match=ninety_nine + ETAG) == 304
    assert judged(if_none_match=hundred + ETAG) == 200
    assert judged(if_match=ninety_nine + ETAG) == 200
    assert judged(if_match=hundred + ETAG) == 412
    assert unencoded_tags(ninety_nine + '"a-gzip"', "gzip") == 'W/"a"'
    assert unencoded_tags(hundred + '"a-gzip"', "gzip") == ""
