"""Content negotiation: a client's preferences. Owns the reading of Accept and Accept-Encoding; encodes nothing.

RFC 9110 §12.4.2, §12.5.1 and §12.5.3. Members beyond the first MOST (members.py) are ignored, and so are malformed
members of Accept-Encoding. A malformed weight in Accept counts as none: the media range has the weight 1.
"""

from __future__ import annotations

import re
from functools import lru_cache

from prefork.http.members import members

IDENTITY = "identity"  # no encoding at all

_LONGEST = 256  # characters; a longer value is read anew each time, so that the remembered ones stay below 128 KiB
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MEMBER = re.compile(rf"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*{_WEIGHT.pattern})?")
_GIVEN = re.compile(rf"(?:^|;)\s*+{_WEIGHT.pattern}\s*+(?:;|\Z)")  # the weight among the parameters of a media range
_SAME = {"x-gzip": "gzip", "x-compress": "compress"}  # RFC 9110 §8.4.1


def best(accept: str, available: tuple[str, ...]) -> str | None:
    """The one of the `available` encodings that the client prefers; of several with the same weight, the first.

    `accept` is the value of Accept-Encoding, "" where there is none. `available` are lower case, without IDENTITY. The
    result is IDENTITY where the client accepts none of them, or prefers IDENTITY; None where it does not accept that
    either.
    """
    return _best(accept, available) if len(accept) <= _LONGEST else _best.__wrapped__(accept, available)


@lru_cache(512)
def _best(accept: str, available: tuple[str, ...]) -> str | None:
    weights = _weights(accept)
    others = weights.get("*", 0.0)
    # An identity that is not named is acceptable, as the last choice; only a "*" of weight 0 excludes it (§12.5.3).
    plain = weights.get(IDENTITY, 0.0 if weights.get("*") == 0.0 else None)
    chosen = max(available, key=lambda coding: weights.get(coding, others), default=IDENTITY)
    weight = weights.get(chosen, others)
    if weight > 0.0 and (plain is None or weight >= plain):
        return chosen
    return IDENTITY if plain != 0.0 else None


def _weights(accept: str) -> dict[str, float]:
    """The weight of each encoding that `accept` names, "*" included."""
    weights = {}
    for member in members(accept):
        if match := _MEMBER.fullmatch(member):
            weights[_SAME.get(match[1], match[1])] = float(match[2] or 1)
    return weights


def preference(accept: str, kind: str) -> tuple[float, int]:
    """The weight of the media type `kind` in `accept`, the value of Accept, and how specific the range is that says so.

    The most specific range that matches decides: 0 for "*/*", 1 for "type/*", 2 for the type itself. The result is
    (0.0, -1) where the client does not want `kind`.
    """
    ranges = ("*/*", kind.partition("/")[0] + "/*", kind)
    weight, precision = 0.0, -1
    for member in members(accept):
        name, _, parameters = member.partition(";")
        name = name.strip()
        if name in ranges and ranges.index(name) > precision:
            precision = ranges.index(name)
            given = _GIVEN.search(parameters)
            weight = float(given[1]) if given else 1.0
    return weight, precision if weight else -1
