"""What the tables of the schema are made of."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table of the file has in common."""

    short_form: ClassVar[str] = ""
