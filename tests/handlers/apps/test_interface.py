"""Interfaces: WSGI and ASGI applications are told apart, and the wrong one is refused with what to write."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django.core.asgi
import django.core.handlers.wsgi
import fastapi
import flask
import pytest
import quart
import starlette.applications
import starlette.endpoints

from prefork.errors import TargetError
from prefork.handlers.apps.interface import Interface, interface, load_application


def wsgi(environ: Any, start_response: Any) -> Any: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
async def asgi_of_a_decorator(*args: Any, **kwargs: Any) -> None: ...
def asgi_not_async(scope: Any, receive: Any, send: Any) -> Any: ...
def asgi2(scope: Any) -> Any: ...
def view(request: Any) -> Any: ...
async def neither(request: Any) -> Any: ...
async def async_wsgi(environ: Any, start_response: Any) -> Any: ...
def factory(debug: bool = False) -> Any: ...
def factory_of_two(config: Any = None, testing: bool = False) -> Any: ...
def factory_of_three(config: Any = None, testing: bool = False, debug: bool = False) -> Any: ...
def factory_of_keywords(*, debug: bool = False) -> Any: ...
def wsgi_of_defaults(environ: Any = None, start_response: Any = None) -> Any: ...
def asgi_of_defaults(scope: Any = None, receive: Any = None, send: Any = None) -> Any: ...
def no_arguments() -> Any: ...
def anything(*args: Any) -> Any: ...


@functools.wraps(wsgi)
def decorated(*args: Any, **kwargs: Any) -> Any: ...


class Wsgi:
    def __init__(self, environ: Any, start_response: Any) -> None: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...
    async def __call__(self, receive: Any, send: Any) -> None: ...


class Slotted:
    __slots__ = ("__call__",)

    def __init__(self) -> None:
        self.__call__ = asgi


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        (wsgi, Interface.WSGI),
        (Wsgi, Interface.WSGI),
        (decorated, Interface.WSGI),
        (functools.partial(wsgi, start_response=None), Interface.NONE),
        (flask.Flask("x"), Interface.WSGI),
        (flask.Flask("x").wsgi_app, Interface.WSGI),
        (asgi, Interface.ASGI),
        (asgi_not_async, Interface.ASGI),
        (asgi_of_a_decorator, Interface.ASGI),
        (functools.partial(asgi_of_a_decorator, 1), Interface.ASGI),
        (Slotted(), Interface.ASGI),
        (starlette.applications.Starlette(), Interface.ASGI),
        (starlette.endpoints.HTTPEndpoint, Interface.ASGI),
        (fastapi.FastAPI(), Interface.ASGI),
        (quart.Quart("x"), Interface.ASGI),
        (asgi2, Interface.ASGI2),
        (Asgi2, Interface.ASGI2),
        (no_arguments, Interface.FACTORY),
        (neither, Interface.NONE),
        (view, Interface.NONE),
        (async_wsgi, Interface.NONE),
        (factory, Interface.FACTORY),
        (factory_of_two, Interface.FACTORY),
        (factory_of_three, Interface.FACTORY),
        (factory_of_keywords, Interface.FACTORY),
        (wsgi_of_defaults, Interface.WSGI),
        (asgi_of_defaults, Interface.ASGI),
        (anything, Interface.UNKNOWN),
        (print, Interface.UNKNOWN),
    ],
)
def test_an_application_is_known_by_how_it_can_be_called(application: Any, expected: Interface) -> None:
    assert interface(application) is expected


def test_django_is_known() -> None:
    assert interface(object.__new__(django.core.handlers.wsgi.WSGIHandler)) is Interface.WSGI
    assert interface(object.__new__(django.core.asgi.ASGIHandler)) is Interface.ASGI


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The target of a name of this very module, which is imported anew from elsewhere."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "module_of_interfaces"
    (tmp_path / f"{name}.py").write_text(Path(__file__).read_text())
    return lambda attribute: f"{name}:{attribute}"


@pytest.mark.parametrize(("attribute", "expected"), [("wsgi", Interface.WSGI), ("asgi", Interface.ASGI)])
def test_either_kind_is_loaded_by_app_and_by_its_own_key(
    target: Callable[[str], str], attribute: str, expected: Interface
) -> None:
    for key in ("app", attribute):
        found, application = load_application(target(attribute), key)
        assert (found, application.__name__) == (expected, attribute)


def test_what_does_not_tell_is_what_the_route_says(target: Callable[[str], str]) -> None:
    assert load_application(target("anything"), "wsgi")[0] is Interface.WSGI
    assert load_application(target("anything"), "asgi")[0] is Interface.ASGI


@pytest.mark.parametrize(
    ("attribute", "key", "says"),
    [
        ("asgi", "wsgi", 'is an ASGI application; write asgi = "module_of_interfaces:asgi"'),
        ("wsgi", "asgi", 'is a WSGI application; write wsgi = "module_of_interfaces:wsgi"'),
        ("asgi2", "asgi", "is an ASGI 2 application"),
        ("no_arguments", "app", 'a factory does; write "module_of_interfaces:no_arguments()"'),
        ("factory", "wsgi", 'as a factory does; write "module_of_interfaces:factory()"'),
        ("factory_of_two", "wsgi", 'as a factory does; write "module_of_interfaces:factory_of_two()"'),
        ("view", "app", "is no application: neither"),
        ("anything", "app", "does not tell whether it is a WSGI or an ASGI application"),
    ],
)
def test_the_wrong_one_is_refused_with_what_to_write(
    target: Callable[[str], str], attribute: str, key: str, says: str
) -> None:
    with pytest.raises(TargetError) as caught:
        load_application(target(attribute), key)
    assert says in str(caught.value)
