"""Targets: "module", "module:attribute" or "module:factory()" -> the object that the operator means.

It imports the module. Where that fails, or there is no such attribute, the error says what to write instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from functools import reduce
from types import ModuleType
from typing import Any

from prefork.errors import TargetError
from prefork.net import file_paths
from prefork.settings.target import Target
from prefork.settings.wording import nearest

USUAL = ("application", "app")  # usual names of applications: the first in PEP 3333's examples, the other in Flask's
FACTORIES = ("create_app", "make_app")  # usual names of functions that make applications


def load(target: str) -> Any:
    """Import the module and follow the attribute's dots; without an attribute, take a usual name. Where the target ends
    in parentheses, call the object with the arguments in them.

    Raises TargetError where there is no such module or attribute. An exception of the module or the factory passes
    through.
    """
    named = Target.parse(target)
    module = _import(target, named.module)
    found = _follow(target, module, named.attribute) if named.attribute else _usual(target, module)
    return found if named.arguments is None else found(*named.arguments, **named.keywords)


def load_callable(target: str) -> Any:
    """The callable that `target` names. Raises TargetError as `load` does, and where it cannot be called."""
    found = load(target)
    if not callable(found):
        what = f"the factory returned {type(found).__name__}, which" if "(" in target else type(found).__name__
        raise TargetError(f'"{target}" is no application: {what} is not callable')
    return found


def _import(target: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(missing + "."):  # then it is the module's own import that failed
            raise
    parent, _, last = missing.rpartition(".")
    if parent and hasattr(sys.modules.get(parent), last):
        near = f"{parent}:{last}"  # as in "myproject.wsgi.application"
    else:
        here = [] if parent else [module.name for module in pkgutil.iter_modules([file_paths.absolute(os.curdir)])]
        near = nearest(missing, here)
    way_out = "" if parent else "; --app-dir, or workers.pythonpath, adds a directory to it"
    raise TargetError(
        f'"{target}": there is no module `{missing}` on the path{_did_you_mean(near) or way_out}'
    ) from None


def _follow(target: str, module: ModuleType, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        known = [name for name in vars(module) if name[0] != "_"]
        near = nearest(attribute, known) or _usual_name(module)
        problem = f'"{target}": module `{module.__name__}` has no attribute `{attribute}`'
        raise TargetError(f"{problem}{_did_you_mean(near)}") from None


def _usual(target: str, module: ModuleType) -> Any:
    for name in USUAL:
        if hasattr(module, name):
            return getattr(module, name)
    near = _usual_name(module)
    problem = f'"{target}": module `{module.__name__}` has neither `application` nor `app`'
    raise TargetError(f'{problem}; write "{target}:{near or "NAME"}"')


def _usual_name(module: ModuleType) -> str:
    known = [*USUAL, *(f"{factory}()" for factory in FACTORIES)]
    return next((name for name in known if hasattr(module, name.removesuffix("()"))), "")


def _did_you_mean(near: str) -> str:
    return f"; did you mean `{near}`?" if near else ""
