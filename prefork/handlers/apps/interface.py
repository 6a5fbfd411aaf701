"""Interfaces: tells whether an application speaks WSGI or ASGI, by how it can be called. Imports no framework."""

from __future__ import annotations

import inspect
from enum import Enum
from functools import partial
from inspect import Parameter
from typing import Any

from prefork.errors import TargetError
from prefork.handlers.apps.target import load_callable
from prefork.runtime import forks

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Interface(Enum):
    """How an application can be called. The values of WSGI and ASGI are the keys that name them in a route."""

    WSGI = "wsgi"  # (environ, start_response): PEP 3333
    ASGI = "asgi"  # async (scope, receive, send): ASGI 3
    ASGI2 = "asgi2"  # (scope), then async (receive, send)
    FACTORY = "factory"  # can be called with nothing
    NONE = "none"  # takes arguments that no interface passes
    UNKNOWN = "unknown"  # (*args), or no signature can be read


def load_application(target: str, key: str) -> tuple[Interface, Any]:
    """The interface (WSGI or ASGI) of the application that `target` names, and the application.

    `key` is the route's: "wsgi", "asgi", or "app" for either. Raises TargetError where the application speaks neither,
    or not the one that `key` demands, or where "app" leaves it open; and raises as `load` does.
    """
    with forks.applications_code():
        application = load_callable(target)
    found = interface(application)
    if found is Interface.UNKNOWN and key != "app":
        found = Interface(key)
    if found is Interface.FACTORY and (":" not in target or "(" in target):
        found = Interface.NONE  # nothing to append "()" to
    problem = {
        Interface.ASGI2: f'"{target}" is an ASGI 2 application, called with the scope alone; prefork serves ASGI 3: '
        "async (scope, receive, send)",
        Interface.FACTORY: f'"{target}" takes no arguments, as a factory does; write "{target}()"',
        Interface.NONE: f'"{target}" is no application: neither (environ, start_response), as WSGI has it, '
        "nor async (scope, receive, send), as ASGI has it",
        Interface.UNKNOWN: f'"{target}" does not tell whether it is a WSGI or an ASGI application; '
        f'write wsgi = "{target}" or asgi = "{target}" in a route',
    }.get(found)
    if problem is None and key not in ("app", found.value):
        article = "an ASGI" if found is Interface.ASGI else "a WSGI"
        problem = f'"{target}" is {article} application; write {found.value} = "{target}"'
    if problem is not None:
        raise TargetError(problem)
    return found, application


def interface(application: Any) -> Interface:
    """The interface that `application` seems to speak.

    The positional parameters that it requires, their names, and `async` decide.
    """
    if not (inspect.isroutine(application) or inspect.isclass(application) or isinstance(application, partial)):
        application = application.__call__  # of the object, not of its class: middleware may set it on the object
    try:
        parameters = list(inspect.signature(application).parameters.values())
    except (TypeError, ValueError):  # written in C, say
        return Interface.UNKNOWN
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    required = [parameter for parameter in positional if parameter.default is Parameter.empty]
    open_ended = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters)
    is_async = _is_async(application)
    count = len(required)
    if count == 3 or (open_ended and is_async):
        return Interface.ASGI
    if is_async or count > 3:
        return Interface.NONE
    if count == 2:
        return Interface.WSGI
    if open_ended:
        return Interface.UNKNOWN
    if count == 0:
        first = positional[0].name if positional else ""
        return {"environ": Interface.WSGI, "scope": Interface.ASGI}.get(first, Interface.FACTORY)
    if len(positional) == 1:
        return Interface.ASGI2 if required[0].name == "scope" else Interface.NONE
    if len(positional) in (2, 3):  # with defaults
        return Interface.WSGI if len(positional) == 2 else Interface.ASGI
    return Interface.NONE


def _is_async(application: Any) -> bool:
    """Whether calling the application returns a coroutine."""
    while isinstance(application, partial):
        application = application.func
    return inspect.iscoroutinefunction(application)
