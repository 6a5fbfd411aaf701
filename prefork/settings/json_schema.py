"""The JSON Schema (draft 2020-12) of the config file, for editors and `prefork schema`. Owns how it is derived from the
Structs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from prefork.settings.kinds import Entries, Kind
from prefork.settings.schema import KINDS, Route, Settings
from prefork.settings.table import Table
from prefork.settings.tables import Key, keys


def json_schema() -> dict[str, Any]:
    """The schema of the whole file. Every key has a description, and a default if there is one."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "prefork configuration",
        **_table(Settings),
    }


def _table(table: type[Table]) -> dict[str, Any]:
    known = keys(table)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _key(key) for name, key in known.items()},
        "additionalProperties": False,
    }
    required = [name for name, key in known.items() if key.default is msgspec.NODEFAULT]
    if required:
        schema["required"] = required
    if table is Route:
        schema["oneOf"] = [{"required": [kind]} for kind in KINDS]
    return schema


def _key(key: Key) -> dict[str, Any]:
    schema = {**_value(key), "description": key.about}
    default = _default(key)
    return schema if default is None else {**schema, "default": default}


def _value(key: Key) -> dict[str, Any]:
    if isinstance(key.value, Kind):
        return msgspec.json.schema(key.value.written)
    if isinstance(key.value, Entries):
        return {"type": "object", "additionalProperties": msgspec.json.schema(key.value.value.written)}
    table = _table(key.value)
    short = key.value.short_form and _value(keys(key.value)[key.value.short_form])
    one = {"anyOf": [short, table]} if short else table
    if not key.many:
        return one
    several: dict[str, Any] = {"type": "array", "items": one, "minItems": 1}
    return {"anyOf": [short, several]} if short else several


def _default(key: Key) -> Any:
    """The default as an operator would write it; None for a table, as its keys have their own, and for no default."""
    if key.field == "listen":
        return [str(listener.address) for listener in key.default]
    plain = isinstance(key.value, Kind | Entries) and key.default is not msgspec.NODEFAULT
    default = list(key.default) if isinstance(key.default, tuple) else key.default
    return default if plain and not (key.field in KINDS and default is False) else None
