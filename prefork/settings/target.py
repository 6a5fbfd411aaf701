"""Targets. Owns how an application is named: "module:attribute", "module:factory(...)", or a module alone."""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import dataclass
from typing import Any

from prefork.settings.wording import quoted

_NO_LITERALS = "expected a factory's arguments to be literals: numbers, texts, lists and the like"


@dataclass(frozen=True, slots=True)
class Target:
    """The name of an application: `attribute` (dotted) of `module`, "" for the module's usual name.

    A factory is called with `arguments` and `keywords`; `arguments` is None if the attribute is not called.
    """

    module: str
    attribute: str
    arguments: tuple[Any, ...] | None
    keywords: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises ValueError: without a message, or with one that says what to write."""
        module, colon, rest = text.partition(":")
        attribute, parenthesis, call = rest.partition("(")
        if "/" in module or module.endswith(".py"):
            raise ValueError(_instead(module, colon + rest))
        if not all(map(_is_name, [*module.split("."), *(attribute.split(".") if colon else ())])):
            raise ValueError
        arguments, keywords = _arguments(call) if parenthesis else (None, {})
        return cls(module, attribute, arguments, keywords)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _instead(path: str, rest: str) -> str:
    """The error for a file's name. It names the module, as seen from here or from its own directory."""
    folder, _, file = re.sub(r"^(?:\./+)+", "", path).rpartition("/")
    parts = [*folder.split("/"), file.removesuffix(".py")] if folder else [file.removesuffix(".py")]
    if all(map(_is_name, parts)):
        return f"expected a module, not a file: write {quoted('.'.join(parts) + rest)}"
    return f"expected a module, not a file: write {quoted(parts[-1] + rest)}, with its directory in workers.pythonpath"


def _arguments(text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments in `text`, which begins after the opening parenthesis. Raises ValueError if one is no literal."""
    try:
        source = f"f({text}"
        call = ast.parse(source, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError(_NO_LITERALS)
        if ast.get_source_segment(source, call) != source:  # a space or a comment follows
            raise ValueError(_NO_LITERALS)
        arguments = tuple(map(ast.literal_eval, call.args))
        keywords = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(_NO_LITERALS) from None
    if len(keywords) < len(call.keywords):  # **more, or a keyword twice
        raise ValueError(_NO_LITERALS)
    return arguments, keywords
