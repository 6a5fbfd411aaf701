"""The table: owns the properties that all tables of the schema share."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. `short_form` is the field that a plain text fills in its place, "" for none."""

    short_form: ClassVar[str] = ""
