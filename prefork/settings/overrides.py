"""Overrides: the options of the command line that replace keys of the file. Owns how text becomes a key's value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import structs

from prefork.settings.kinds import ADDRESS, DIRECTORY, TARGET, UMASK, Entries, Kind
from prefork.settings.schema import Listener, Route, Settings, Workers
from prefork.settings.schema_files import Files
from prefork.settings.tables import keys, twice

_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Override:
    """The `value` that the option called `option` gives the key `key` of a table, such as "workers.threads": text, a
    flag, a list, or entries, which are added to those of the file.
    """

    option: str
    key: str
    value: str | bool | Sequence[str] | Mapping[str, str]


def override(fields: dict[str, Any], overrides: Sequence[Override]) -> Iterator[str]:
    """Put each value into its table in `fields`. Yields a problem for each option that is wrong."""
    for one in overrides:
        place, _, name = one.key.partition(".")
        table = keys(Settings)[place].value
        assert isinstance(table, type)
        key = keys(table)[name]
        told = fields.get(place) or table()
        try:
            if isinstance(key.value, Entries):
                value = {**getattr(told, key.field), **_entries(key.value, one.value)}
            else:
                assert isinstance(key.value, Kind)
                value = _value(key.value, one.value)
        except ValueError as error:
            yield f"{one.option}: {error}"
        else:
            fields[place] = structs.replace(told, **{key.field: value})


def _value(kind: Kind, given: object) -> Any:
    """The value of the Struct for it. A text that the kind refuses may be a number. Raises ValueError."""
    if not isinstance(given, str) or kind is UMASK or not (number := _NUMBER.fullmatch(given)):
        return kind.convert(given)  # the digits of a umask are octal
    try:
        return kind.convert(given)
    except ValueError:
        return kind.convert(float(given) if number[1] else int(given))


def _entries(kinds: Entries, given: object) -> dict[str, Any]:
    assert isinstance(given, Mapping)
    return {kinds.name.convert(name): kinds.value.convert(value) for name, value in given.items()}


def override_listen(fields: dict[str, Any], listen: Sequence[str]) -> Iterator[str]:
    """Replace all addresses in `fields` by `listen`, if it has any. Yields a problem for each that is wrong."""
    if not listen:
        return
    listeners: list[Listener] = []
    for text in listen:
        try:
            listeners.append(Listener(address=ADDRESS.convert(text)))
        except ValueError as error:
            yield f"--listen: {error}"
    for index, _ in twice(listener.address for listener in listeners):
        yield f"--listen: {listeners[index].address} is given twice"
    fields["listen"] = tuple(listeners)


def override_path(fields: dict[str, Any], app_dir: str) -> Iterator[str]:
    """Put `app_dir`, if any, in front of workers.pythonpath in `fields`. Yields a problem if it is wrong."""
    if not app_dir:
        return
    try:
        table = fields.get("workers") or Workers()
        path = (DIRECTORY.convert(app_dir), *table.pythonpath)
        fields["workers"] = structs.replace(table, pythonpath=path)
    except ValueError as error:
        yield f"--app-dir: {error}"


def override_route(fields: dict[str, Any], app: str, files: str, listing: bool) -> Iterator[str]:
    """Replace the route "/" of every host in `fields`. Yields a problem for each option that is wrong."""
    if app and files:
        yield "--files: expected no application beside it"
    if listing and not files:
        yield "--listing: expected only beside --files"
    try:
        if app:
            route = Route(app=TARGET.convert(app))
        elif files:
            route = Route(files=Files(root=DIRECTORY.convert(files), listing=listing))
        else:
            return
    except ValueError as error:
        yield f"{'APP' if app else '--files'}: {error}"
        return
    others = (r for r in fields.get("routes", ()) if r is None or (r.host, r.path) != ("", "/"))
    fields["routes"] = (*others, route)
