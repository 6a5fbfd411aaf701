"""Tables: owns the walk through a parsed TOML document, along the Structs. It collects every problem, stops at none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_origin

from msgspec import NODEFAULT, Meta, structs

from prefork.settings.kinds import Entries, Kind
from prefork.settings.schema import Settings
from prefork.settings.table import Table
from prefork.settings.wording import dotted, found, nearest


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table, which fills the `field` of the Struct.

    `value` is the Kind of a single value, the Entries of an open table, or the Struct of a table; with `many`, the key
    is a list of such tables. `default` is NODEFAULT if the key is required.
    """

    field: str
    value: Kind | Entries | type[Table]
    many: bool
    about: str
    default: Any


@cache
def keys(table: type[Table]) -> dict[str, Key]:
    """The keys of `table`, by their names in the file: its fields that have a description."""
    found_keys = {}
    for field in structs.fields(table):
        held, *notes = get_args(field.type) or (field.type,)
        about = next((note.description for note in notes if isinstance(note, Meta)), None)
        if about is None:
            continue
        plain = next((note for note in notes if isinstance(note, Kind | Entries)), None)
        many = get_origin(held) is tuple
        value = plain or next(t for t in (held, *get_args(held)) if isinstance(t, type) and issubclass(t, Table))
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        found_keys[field.encode_name] = Key(field.name, value, many, about, default)
    return found_keys


def _places(table: type[Table], where: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the file with its dotted path, the outermost keys first."""
    known = keys(table)
    yield from ((name, dotted(where, name)) for name in known)
    for name, key in known.items():
        if isinstance(key.value, type):
            yield from _places(key.value, dotted(where, name))


def _suggestion(name: str, table: type[Table]) -> str:
    """A hint: the same key in another table, or the nearest key of this one; "" if there is neither."""
    if name in keys(Settings):  # TOML has no way back to the top level, so it stands in the table above it
        return " (this key belongs to the top of the file, above the first [table])"
    elsewhere = [path for key, path in _places(Settings) if key == name]
    place = elsewhere[0] if elsewhere else nearest(name, keys(table))
    return f' (did you mean "{place}"?)' if place else ""


def twice(items: Iterable[object]) -> Iterator[tuple[int, int]]:
    """The index of each repeated item, with the index of its first occurrence; None is no item."""
    seen: dict[object, int] = {}
    for index, item in enumerate(items):
        if item is not None and seen.setdefault(item, index) != index:
            yield index, seen[item]


class Walk:
    """One walk through a document. Each wrong value becomes a line of `problems`, and a None in the result."""

    def __init__(self, source: str) -> None:
        self.problems: list[str] = []
        self._prefix = f"{source}: " if source else ""

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self._prefix}{where}: {text}")

    def fields(self, table: type[Table], raw: dict[str, Any], where: str = "") -> dict[str, Any]:
        """The fields of `table` that `raw` fills, by their names in the Struct, without those that are wrong."""
        known = keys(table)
        for name in (name for name in raw if name not in known):
            self.problem(dotted(where, name), "unknown key" + _suggestion(name, table))
        filled = {}
        for name, key in known.items():
            path = dotted(where, name)
            if name in raw:
                value = self._value(key, raw[name], path)
                if value is not None:
                    filled[key.field] = value
            elif key.default is NODEFAULT:
                self.problem(path, "a required key is missing")
        return filled

    def _value(self, key: Key, raw: Any, where: str) -> Any:
        if isinstance(key.value, Kind):
            return self.single(key.value, raw, where)
        if isinstance(key.value, Entries):
            return self._entries(key.value, raw, where)
        if key.many:
            return self._list(key.value, raw, where)
        return self._table(key.value, raw, where)

    def single(self, kind: Kind, raw: Any, where: str) -> Any:
        try:
            return kind.convert(raw)
        except ValueError as error:
            self.problem(where, str(error))
            return None

    def _entries(self, kinds: Entries, raw: Any, where: str) -> dict[str, Any] | None:
        if not isinstance(raw, dict):
            self.problem(where, f"expected a table, got {found(raw)}")
            return None
        for name, value in raw.items():
            self.single(kinds.name, name, dotted(where, name))
            self.single(kinds.value, value, dotted(where, name))
        return raw

    def _list(self, table: type[Table], raw: Any, where: str) -> tuple[Table | None, ...] | None:
        if isinstance(raw, str) and table.short_form:
            return (self._table(table, raw, where),)
        if not isinstance(raw, list):
            forms = "a text, or a list of texts and tables" if table.short_form else f"tables headed [[{where}]]"
            self.problem(where, f"expected {forms}, got {found(raw)}")
            return None
        return tuple(self._table(table, item, f"{where}[{index}]") for index, item in enumerate(raw))

    def _table(self, table: type[Table], raw: Any, where: str) -> Table | None:
        problems = len(self.problems)
        if isinstance(raw, str) and table.short_form:
            short = keys(table)[table.short_form]
            filled = {short.field: self._value(short, raw, where)}
        elif isinstance(raw, dict):
            filled = self.fields(table, raw, where)
        else:
            forms = "a text or a table" if table.short_form else "a table"
            self.problem(where, f"expected {forms}, got {found(raw)}")
        return table(**filled) if len(self.problems) == problems else None
