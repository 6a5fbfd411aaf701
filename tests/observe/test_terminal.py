"""What is printed: every character of others' text is shown, and none is obeyed."""

from __future__ import annotations

import io
import json

import pytest

from prefork.observe.terminal import printable_json, say

NASTY = "\x1b]0;owned\x07 \x9b2J \r\x08 \u202egnp\u2028 \ud800 \x7f"


def said(text: str) -> str:
    stream = io.StringIO()
    say(text, stream)
    return stream.getvalue()


def test_what_would_steer_a_terminal_is_escaped_line_by_line() -> None:
    shown = said(f"ümlaut\n\tat {NASTY}\n")
    assert shown == ("ümlaut\n        at \\x1B]0;owned\\x07 \\x9B2J \\x0D\\x08 \\u202Egnp\\u2028 \\uD800 \\x7F\n\n")


@pytest.mark.parametrize("text", ["plain", "ümlaut \U0001f600", NASTY.replace("\ud800", ""), "\U000e0001 \x85"])
def test_json_means_the_same_and_holds_nothing_else(text: str) -> None:
    shown = printable_json({"message": text})
    assert json.loads(shown) == {"message": text}
    assert all(c == "\n" or c.isprintable() for c in shown)
