"""What an upgrade hands over by the environment is checked: it may be anybody's."""

from __future__ import annotations

import os

import pytest

from prefork.errors import StartError
from prefork.process.master.upgrade import VARIABLE, Predecessor

OFFER = '{{"talk": {0}, "stderr": {0}, "sockets": {{}}, "pid_file": ["p", {0}, false], "control": ["c", {0}]}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "{}",
        "[" * 100_000,
        "\udc80",
        *map(OFFER.format, ("-1", "1048575", "9" * 18, "9" * 60, '"3"', "NULL")),
    ],
)
def test_an_offer_that_no_master_has_made_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with open(os.devnull) as null:
        monkeypatch.setenv(VARIABLE, text.replace("NULL", str(null.fileno())))
        with pytest.raises(StartError, match=f"^{VARIABLE}: expected the offer of a master that upgrades: .+"):
            Predecessor.find()
    assert VARIABLE not in os.environ
    assert Predecessor.find() is None
