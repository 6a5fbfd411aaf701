"""Bounded caches: dicts that forget their oldest entry when they are full. Owns that policy.

A hit is a plain `get`, at a dict's cost. Caches with another policy have it beside them: those that count bytes
(handlers/files/cache.py, handlers/encode/compression.py), those that ask whether an entry is in use
(handlers/apps/wsgi/wait_estimate.py), and those that keep only what comes twice (http/h1/parse.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

NAMES = 512  # names of fields in a table
LONGEST_NAME = 64  # characters of a name that is kept, as clients may make up long ones


def remember(cache: dict[K, V], key: K, value: V, most: int) -> None:
    """Put `value` into `cache`, which has at most `most` entries, at least one; a full one forgets its oldest entry."""
    if key not in cache and len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value


class NameTable(dict[str, V], Generic[V]):
    """A bounded dict: name of a field -> what `make` makes of it. Clients may make up names: at most NAMES are kept,
    none longer than LONGEST_NAME. Looking one up raises what `make` raises.
    """

    def __init__(self, make: Callable[[str], V]) -> None:
        self._make = make

    def __missing__(self, name: str) -> V:
        made = self._make(name)
        if len(name) <= LONGEST_NAME:
            remember(self, name, made, NAMES)
        return made
