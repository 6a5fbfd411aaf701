"""Target.parse: the ways to name an application, and what to write in the place of a file's name."""

from __future__ import annotations

import pytest

from prefork.settings.target import Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("app", Target("app", "", None, {})),
        ("pkg.mod", Target("pkg.mod", "", None, {})),
        ("pkg.mod:holder.app", Target("pkg.mod", "holder.app", None, {})),
        ("app:create_app()", Target("app", "create_app", (), {})),
        ("app:make('a:b', 1, debug=True)", Target("app", "make", ("a:b", 1), {"debug": True})),
        ("app:make([1, {'x': (2,)}])", Target("app", "make", ([1, {"x": (2,)}],), {})),
    ],
)
def test_a_target_is_a_module_and_maybe_an_attribute_and_a_call(text: str, target: Target) -> None:
    assert Target.parse(text) == target


@pytest.mark.parametrize("text", ["", ":app", "app:", "a:b:c", "a-b:c", "a.class:b", "a..b", " a:b", "a:(b)", "a b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        Target.parse(text)


@pytest.mark.parametrize(
    "call", ["f(", "f(x)", "f(g())", "f()()", "f() + 1", "f(*[1])", "f(**{})", "f(a=1, a=2)", "f({[]: 1})", "f('\0')"]
)
def test_a_factory_takes_literals_alone(call: str) -> None:
    with pytest.raises(ValueError, match="arguments to be literals"):
        Target.parse(f"app:{call}")


@pytest.mark.parametrize("more", [" ", "\n", " # x", " # x)", "\\\n", ";", ")"])
@pytest.mark.parametrize("call", ["f()", "f('é', 1)"])
def test_nothing_follows_the_call(call: str, more: str) -> None:
    with pytest.raises(ValueError, match="arguments to be literals"):
        Target.parse(f"app:{call}{more}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("app.py", 'write "app"'),
        ("./app.py:app", 'write "app:app"'),
        ("path/app.py:create_app()", 'write "path.app:create_app()"'),
        ("mysite/wsgi", 'write "mysite.wsgi"'),
        ("/srv/app.py:app", 'write "app:app", with its directory in workers.pythonpath'),
        ("../my-dir/app.py", 'write "app", with its directory in workers.pythonpath'),
    ],
)
def test_for_a_file_the_module_is_named(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match="not a file") as caught:
        Target.parse(text)
    assert str(caught.value).endswith(hint)
