"""Targets: "module:attribute" leads to the application, or the error says where the way ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.errors import TargetError
from prefork.handlers.apps.target import load, load_callable

WAY_OUT = "; --app-dir, or workers.pythonpath, adds a directory to it"

Module = Callable[[str], str]
_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Makes a package of the given source, with a module `inner` in it of the same source; returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str) -> str:
        name = f"target_of_test_{next(_numbers)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
        (tmp_path / name / "inner.py").write_text(source)
        return name

    return make


APP = """
class Holder:
    class Inner:
        def app(environ, start_response): ...
def app(environ, start_response): ...
application = Holder()
number = 7
_hidden = 1
"""


def test_it_is_the_attribute_of_the_module(module: Module) -> None:
    name = module(APP)
    assert load(f"{name}:number") == 7
    assert load_callable(f"{name}:app").__name__ == "app"
    assert load_callable(f"{name}.inner:app").__module__ == f"{name}.inner"


def test_dots_of_the_attribute_are_followed(module: Module) -> None:
    name = module(APP)
    assert load_callable(f"{name}:Holder.Inner.app").__qualname__ == "Holder.Inner.app"


@pytest.mark.parametrize("target", ["no_such_module:app", "no_such_module.inner:app"])
def test_a_module_that_is_not_there_is_named(target: str) -> None:
    with pytest.raises(TargetError) as caught:
        load(target)
    assert str(caught.value) == f'"{target}": there is no module `no_such_module` on the path{WAY_OUT}'
    assert caught.value.__suppress_context__  # nobody wants importlib's stack


def test_a_submodule_that_is_not_there_is_named(module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError, match=f"there is no module `{name}.iner` on the path"):
        load(f"{name}.iner:app")


def test_a_module_that_is_no_package_is_named(module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError, match=f"there is no module `{name}.inner.app` on the path"):
        load(f"{name}.inner.app:app")


def test_an_attribute_that_is_not_there_is_named_with_the_nearest_that_is(module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError) as caught:
        load(f"{name}:aplication")
    expected = f'"{name}:aplication": module `{name}` has no attribute `aplication`; did you mean `application`?'
    assert str(caught.value) == expected


@pytest.mark.parametrize("attribute", ["hidden", "nothing_like_it"])
def test_without_anything_near_there_is_no_suggestion(attribute: str, module: Module) -> None:
    name = module("number = 7\n_hidden = 1\n")
    with pytest.raises(TargetError, match=f"module `{name}` has no attribute `{attribute}`$"):
        load(f"{name}:{attribute}")


@pytest.mark.parametrize("attribute", ["Holder.nothing", "number.app", "app.app"])
def test_an_attribute_of_an_attribute_that_is_not_there_is_named_in_full(attribute: str, module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError, match=f"module `{name}` has no attribute `{attribute}`"):
        load(f"{name}:{attribute}")


def test_an_import_that_fails_in_the_module_passes_through(module: Module) -> None:
    name = module("import no_such_dependency")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load(f"{name}:app")


@pytest.mark.parametrize("error", ["ValueError('broken')", "SystemExit(3)", "ImportError('broken')", "OSError()"])
def test_whatever_the_module_raises_passes_through(error: str, module: Module) -> None:
    raised = eval(error)
    with pytest.raises(type(raised)) as caught:
        load(f"{module(f'raise {error}')}:app")
    assert str(caught.value) == str(raised)


def test_a_syntax_error_passes_through(module: Module) -> None:
    with pytest.raises(SyntaxError):
        load(f"{module('def')}:app")


@pytest.mark.parametrize(("attribute", "kind"), [("number", "int"), ("application", "Holder")])
def test_what_cannot_be_called_is_no_application(attribute: str, kind: str, module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError) as caught:
        load_callable(f"{name}:{attribute}")
    assert str(caught.value) == f'"{name}:{attribute}" is no application: {kind} is not callable'


FACTORY = """
def create_app(answer=42, *, kind="app"):
    def app(environ, start_response): ...
    app.made = answer, kind
    return app
def broken(): return None
"""


def test_a_factory_is_called_with_its_literals(module: Module) -> None:
    name = module(FACTORY)
    assert load_callable(f"{name}:create_app()").made == (42, "app")
    assert load_callable(f"{name}:create_app(7, kind='x')").made == (7, "x")


def test_what_a_factory_raises_passes_through(module: Module) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        load(f"{module(FACTORY)}:create_app(no=1)")


def test_a_factory_that_returns_no_callable_is_named(module: Module) -> None:
    name = module(FACTORY)
    with pytest.raises(TargetError, match=r"the factory returned NoneType, which is not callable$"):
        load_callable(f"{name}:broken()")


@pytest.mark.parametrize(("source", "held"), [("app = 1", 1), ("app = 1\napplication = 2", 2)])
def test_a_module_alone_leads_to_its_application_or_app(source: str, held: int, module: Module) -> None:
    assert load(module(source)) == held


@pytest.mark.parametrize(("source", "hint"), [(FACTORY, "create_app()"), ("", "NAME")])
def test_a_module_without_either_is_told_what_to_write(source: str, hint: str, module: Module) -> None:
    name = module(source)
    with pytest.raises(TargetError) as caught:
        load(name)
    assert str(caught.value) == f'"{name}": module `{name}` has neither `application` nor `app`; write "{name}:{hint}"'


@pytest.mark.parametrize(("source", "near"), [("app = 1", "app"), (FACTORY, "create_app()")])
def test_a_missing_attribute_may_be_one_of_another_usual_name(source: str, near: str, module: Module) -> None:
    name = module(source)
    with pytest.raises(TargetError) as caught:
        load(f"{name}:application")
    assert str(caught.value).endswith(f"did you mean `{near}`?")


def test_an_attribute_written_as_a_module_is_recognised(module: Module) -> None:
    name = module(APP)
    with pytest.raises(TargetError) as caught:
        load(f"{name}.inner.app")
    assert str(caught.value).endswith(f"did you mean `{name}.inner:app`?")


def test_a_misspelt_module_of_the_current_directory_is_recognised(
    tmp_path: Path, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(APP)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError) as caught:
        load(f"{name}x:app")
    assert f"; did you mean `{name[:-1]}" in str(caught.value)
