"""Fixtures of the tests of static files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.handlers.files.static import Files
from tests.handlers.files.file_trees import SECRET, descriptors, descriptors_at_rest, serve


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors_at_rest()
    yield
    assert descriptors() == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root, beside which `outside/secret` lies."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "public").mkdir()
    return tmp_path / "public"


@pytest.fixture
def files(root: Path) -> Files:
    return serve(root)
