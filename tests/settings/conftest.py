"""A directory of its own for each test, with what a config file may refer to in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import ConfigError
from prefork.settings.load import load
from prefork.settings.schema import Settings

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: empty save for the directory `public`."""
    (tmp_path / "public").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings(here: Path) -> Load:
    """Load a text as server.toml, with a status route unless the text has a route itself."""

    def loaded(text: str, **options: Any) -> Settings:
        route = "" if "route" in text else "\n[[route]]\nstatus = true\n"
        (here / "server.toml").write_text(text + route, encoding="utf-8")
        return load("server.toml", **options)

    return loaded


@pytest.fixture
def problems(settings: Load) -> Problems:
    """The problems of a text that cannot be loaded, less the "server.toml: " that each of them starts with."""

    def refused(text: str, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            settings(text, **options)
        return [problem.removeprefix("server.toml: ") for problem in caught.value.problems]

    return refused
