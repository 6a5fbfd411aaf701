"""Passed sockets: what the environment says of them is held against what can be."""

from __future__ import annotations

import os

import pytest

from prefork.errors import StartError
from prefork.net.inherited import VARIABLES, take


def environment(count: str, pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_FDS": count, "LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDNAMES": "a:b"}


@pytest.mark.parametrize("count", ["99999999999", "1" * 5000, "-1", "3.5", "two", "\u0663", "999999999", " 1"])
def test_a_number_that_cannot_be_is_an_error_of_one_line_and_the_variables_are_gone(count: str) -> None:
    variables = environment(count)
    with pytest.raises(StartError, match=r"^LISTEN_FDS: expected a number of descriptors, at most \d+, got \S"):
        take(variables)
    assert not variables.keys() & set(VARIABLES)


@pytest.mark.parametrize("variables", [environment("99999999999", pid=1), environment(""), environment("0"), {}])
def test_what_is_meant_for_another_process_is_nothing_to_us(variables: dict[str, str]) -> None:
    assert take(variables).sockets == {}
