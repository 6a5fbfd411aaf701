"""Whatever stands in the file, load returns Settings or raises a ConfigError of whole lines that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.errors import ConfigError
from prefork.settings.load import load
from prefork.settings.overrides import Override
from prefork.settings.schema import Settings
from prefork.settings.tables import keys

TABLES = (Settings, *(key.value for key in keys(Settings).values() if isinstance(key.value, type)))
NAMES = [name for table in TABLES for name in keys(table)]
NAMES += ["root", "to", "body", "headers", "x", '"a b"', '"\\n"', '""']
TEXTS = ["auto", "-", "/", "//", "a:b", ":80", "unix:x", "64KiB", "*.a", "$", "\n", "\0", "é", "€", "\u2028"]
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    texts.map(lambda text: json.dumps(text).replace("\x7f", "\\u007f"))
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["true", "false", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0xff", "1e400"])
)
names = st.sampled_from(NAMES)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(names, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f"{name} = {value}" for name, value in table.items()) + "}"
        )
    ),
    max_leaves=8,
)
lines = (
    st.builds("{} = {}".format, names, values)
    | names.map("[{}]".format)
    | names.map("[[{}]]".format)
    | st.just("[[route]]")
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "server.toml"


def problems(path: str | None, **options: Any) -> tuple[str, ...]:
    """What load says against it; nothing where it loads."""
    try:
        load(path, **options)
    except ConfigError as error:
        return error.problems or ("a ConfigError without a problem",)
    return ()


def check(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    for problem in problems(str(file)):
        assert problem.startswith(f"{file}: ")
        assert problem.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.lists(lines, max_size=8).map("\n".join))
def test_toml_of_known_keys_and_odd_values(file: Path, text: str) -> None:
    check(file, text.encode())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(str.encode))
def test_bytes_that_are_no_toml(file: Path, content: bytes) -> None:
    check(file, content)


@settings(max_examples=100, deadline=None)
@given(app=texts, listen=st.lists(texts, max_size=3), workers=texts)
def test_options_of_odd_texts(app: str, listen: list[str], workers: str) -> None:
    overrides = [Override("--workers", "workers.count", workers)]
    for problem in problems(None, app=app, listen=listen, overrides=overrides):
        assert problem.startswith(("APP: ", "--listen: ", "--workers: ", "route: "))
        assert problem.isprintable()
