"""Wording: what operators are told works as it is told."""

from __future__ import annotations

from pathlib import Path

from prefork.settings.wording import to_install

PREFORK = Path(__file__).parents[2] / "prefork"


def test_a_missing_package_is_named_by_itself_as_prefork_is_on_no_index() -> None:
    assert to_install("websockets") == "pip install websockets"
    for source in PREFORK.rglob("*.py"):
        assert "pip install 'prefork" not in source.read_text(), source
        assert "pip install prefork" not in source.read_text(), source
