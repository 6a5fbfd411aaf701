"""Bounded caches: plain dicts that forget their oldest entry when they are full. Owns that policy.

A hit is a plain `get`, at a dict's cost. Caches with another policy have it beside them: those that count bytes
(handlers/files/cache.py, handlers/encode/compression.py), those that ask whether an entry is in use
(handlers/apps/wsgi/wait_estimate.py), and those that keep only what comes twice (http/h1/parse.py).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def remember(cache: dict[K, V], key: K, value: V, most: int) -> None:
    """Put `value` into `cache`, which has at most `most` entries, at least one; a full one forgets its oldest entry."""
    if key not in cache and len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value
