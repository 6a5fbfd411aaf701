"""The document: owns the reading of a TOML file, and the line and the key of a syntax error."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from prefork.errors import ConfigError
from prefork.settings.wording import dotted

REACH = 100  # lines before the one at which tomllib stopped; its statement may have begun in them
_MARK = "?"  # a key that no table has
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_KEY = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_STATEMENT = re.compile(rf"\s*(?:({_KEY})[ \t]*=|(\[\[?)[ \t]*({_KEY}))")
_GIVEN_TWICE = re.compile(r"Cannot (overwrite a value|declare .* twice|mutate immutable namespace .*)", re.DOTALL)


def read(path: str) -> dict[str, Any]:
    """The TOML document in `path`. Raises ConfigError, of one line, for a file that cannot be read or is no TOML."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        if path.endswith(".py"):
            problem = "expected TOML, got Python, as gunicorn's configuration is; `prefork schema` lists every key"
            raise ConfigError(f"{path}: {problem}")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        problem = "no such file; name another with -c, or an application such as myapp:app"
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or str(error)).lower()}"
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"line {line}: expected UTF-8, got the byte {data[error.start]:#04x}"
    except tomllib.TOMLDecodeError as error:
        problem = _syntax(str(error), data.decode())
    except ValueError:  # int() refuses more than 4300 digits; see sys.set_int_max_str_digits
        problem = "a number has too many digits"
    except RecursionError:
        problem = "lists or tables are nested too deeply"
    raise ConfigError(f"{path}: {problem}")


def _syntax(message: str, text: str) -> str:
    """The message of tomllib, which ends "(at line 3, column 5)" or "(at end of document)", with line and key first."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if not match:
        return message
    what, line, column = match[1], int(match[2] or len(text.splitlines()) or 1), match[3]
    what = "is given already" if _GIVEN_TWICE.fullmatch(what) else f"{what[:1].lower()}{what[1:]}"
    key = _key(text, line)
    place = f"column {column}" if column else "end of the file"
    return f"line {line}: {f'{key}: ' if key else ''}{what} ({place})"


def _key(text: str, line: int) -> str:
    """The key, or the header, of the statement at `line`, at which tomllib has stopped; "" if there is none.

    The statement begins after the longest run of whole lines, from the first on, that is a document by itself.
    """
    lines = text.split("\n")
    for first in range(line, max(0, line - REACH), -1):
        try:
            before = tomllib.loads("\n".join([*lines[: first - 1], f'"{_MARK}" = 0']))
        except (ValueError, RecursionError):
            continue
        statement = _STATEMENT.match("\n".join(lines[first - 1 : line]))
        if not statement:
            return ""
        if statement[2]:
            return f"[{statement[3]}]" if statement[2] == "[" else f"[[{statement[3]}]]"
        return f"{where}.{statement[1]}" if (where := _where(before)) else statement[1]
    return ""


def _where(table: dict[str, Any], path: str = "") -> str | None:
    """The dotted path of the table that has _MARK, "" for `table` itself; None if no table has it."""
    if _MARK in table:
        return path
    for name, value in table.items():
        inside = dotted(path, name)
        tables = [(f"{inside}[{index}]", item) for index, item in enumerate(value)] if isinstance(value, list) else []
        for place, item in tables or [(inside, value)]:
            if isinstance(item, dict) and (found := _where(item, place)) is not None:
                return found
    return None
