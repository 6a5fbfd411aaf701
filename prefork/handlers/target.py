"""Targets: "module:attribute" -> the object. Imports what the operator named, and says clearly where that fails."""

from __future__ import annotations

import importlib
import importlib.util
from functools import reduce
from typing import Any

from prefork.errors import TargetError
from prefork.settings.wording import nearest


def load(target: str) -> Any:
    """Import the module and follow the attribute's dots.

    Raises TargetError where there is no such module or attribute; what the module itself raises passes through.
    """
    name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):  # else it is the module's own import that failed
            raise TargetError(f'"{target}": there is no module `{missing}` on the path') from None
        raise
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        near = nearest(attribute, [known for known in vars(module) if known[0] != "_"])
        hint = f"; did you mean `{near}`?" if near else ""
        raise TargetError(f'"{target}": module `{name}` has no attribute `{attribute}`{hint}') from None


def load_callable(target: str) -> Any:
    """The callable that `target` names. Raises TargetError as `load` does, and where it cannot be called."""
    found = load(target)
    if not callable(found):
        raise TargetError(f'"{target}" is no application: {type(found).__name__} is not callable')
    return found
