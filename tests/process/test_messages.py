"""What is told of an application that cannot boot: its own frames, not those that led to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prefork.handlers.apps.target import load
from prefork.process.messages import describe
from prefork.settings.target import Target


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def told(error: BaseException) -> str:
    """The traceback of what a test has caught, without the test's own frame."""
    assert error.__traceback__
    return describe(error.with_traceback(error.__traceback__.tb_next)).traceback


def told_of(directory: Path, source: str) -> str:
    """The traceback of an application of this text."""
    (directory / "broken_app.py").write_text(source)
    sys.modules.pop("broken_app", None)
    try:
        load("broken_app:app")
    except Exception as error:
        return told(error)
    pytest.fail("it could be imported")


def test_a_traceback_begins_where_the_application_does(directory: Path) -> None:
    lines = told_of(directory, "def setup():\n    1 / 0\nsetup()\n").splitlines()
    frames = [line for line in lines if line.startswith("  File ")]
    assert lines[0] == "Traceback (most recent call last):"
    where = f'  File "{directory}/broken_app.py", line '
    assert frames == [f"{where}3, in <module>", f"{where}2, in setup"]


def test_each_of_chained_tracebacks_begins_where_the_application_does(directory: Path) -> None:
    text = told_of(directory, "try:\n    {}['key']\nexcept KeyError as error:\n    raise ValueError('no') from error\n")
    parts = text.split("Traceback (most recent call last):\n")
    assert len(parts) == 3
    for part in parts[1:]:
        assert part.startswith(f'  File "{directory}/broken_app.py", line ')


def test_the_cause_of_an_error_of_our_own_begins_there_too(directory: Path) -> None:
    (directory / "failing.py").write_text("def fail():\n    raise KeyError\n")
    ours = ValueError("no")
    with pytest.raises(KeyError) as raised:
        load("failing:fail()")
    ours.__cause__ = raised.value.with_traceback(raised.tb.tb_next)
    text = describe(ours).traceback
    assert text.splitlines()[1] == f'  File "{directory}/failing.py", line 2, in fail'


def test_a_chain_of_errors_may_be_longer_than_the_interpreters_stack() -> None:
    error = first = ValueError("first")
    for _ in range(5000):
        error.__context__ = error = ValueError("behind")
    assert describe(first).problem == "ValueError: first"


def test_a_syntax_error_stands_alone(directory: Path) -> None:
    lines = told_of(directory, "x = (\n").splitlines()
    assert [line for line in lines if line.startswith("  File ")] == [f'  File "{directory}/broken_app.py", line 1']


def test_a_traceback_with_nothing_of_the_application_in_it_is_whole() -> None:
    try:
        Target.parse("a.py")
    except ValueError as error:
        text = told(error)
    assert "in parse" in text
