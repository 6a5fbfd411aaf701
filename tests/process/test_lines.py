"""Lines: whatever another process says, it is cut and understood within bounds, or it is a malformed message."""

from __future__ import annotations

import time

import msgspec
import pytest

from prefork.errors import MalformedMessage
from prefork.process.lines import Lines, decode


class Greeting(msgspec.Struct):
    name: str
    age: float = 0.0


def test_lines_are_cut_wherever_the_pieces_end() -> None:
    lines = Lines()
    assert [lines.feed(piece) for piece in (b"on", b"e\ntwo\n\nth", b"", b"ree\n")] == [
        [],
        [b"one", b"two", b""],
        [],
        [b"three"],
    ]


@pytest.mark.parametrize("pieces", [[b"123456"], [b"123", b"456"], [b"1\n", b"123456\n"], [b"1\n123", b"456\n1\n"]])
def test_a_line_that_is_too_long_is_malformed_before_it_is_complete(pieces: list[bytes]) -> None:
    lines = Lines(5)
    *earlier, last = pieces
    for piece in earlier:
        lines.feed(piece)
    with pytest.raises(MalformedMessage, match="a line of more than 5 bytes"):
        lines.feed(last)


def test_a_line_of_the_longest_length_is_none_too_long() -> None:
    assert Lines(5).feed(b"12345\n12345\n") == [b"12345", b"12345"]


def test_a_long_line_in_small_pieces_costs_no_more_than_its_length() -> None:
    lines, begun = Lines(64 << 20), time.process_time()
    for _ in range(1 << 14):
        lines.feed(b"x" * 1024)
    assert time.process_time() - begun < 1
    assert lines.feed(b"\n") == [b"x" * (16 << 20)]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"name": 1}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "a", "age": NaN}',
        b'{"name": "a", "age": 1e999}',
        b'{"name": "a", "more": ' + b"[" * 100_000,
    ],
    ids=repr,
)
def test_what_is_no_message_is_malformed_whatever_is_wrong_with_it(line: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(line, Greeting)


def test_a_message_may_have_members_that_are_not_known_here() -> None:
    assert decode(b'{"name": "a", "shoe": 44}', Greeting) == Greeting("a")
