"""Content negotiation: what a client would rather have. Owns the reading of Accept and Accept-Encoding; codes nothing.

RFC 9110 §12.4.2, §12.5.1 and §12.5.3. What is said to be acceptable in a way that is no HTTP is not acceptable, nor is
what is said behind a hundred others.
"""

from __future__ import annotations

import re
from functools import lru_cache

from prefork.http.members import members

IDENTITY = "identity"  # no coding at all

_LONGEST = 256  # characters; what is longer is read anew each time: so what is remembered stays below 128 KiB
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MEMBER = re.compile(rf"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*{_WEIGHT.pattern})?")
_GIVEN = re.compile(rf"(?:^|;)\s*+{_WEIGHT.pattern}\s*+(?:;|\Z)")  # among the parameters of a range
_SAME = {"x-gzip": "gzip", "x-compress": "compress"}  # RFC 9110 §8.4.1


def best(accept: str, available: tuple[str, ...]) -> str | None:
    """The one of the `available` codings that the client likes best; of those it likes equally, the first.

    `accept` is the value of Accept-Encoding, "" where there is none; `available` are lower case, IDENTITY not among
    them. IDENTITY where nothing of that is wanted, or not as much; None where not even that is acceptable.
    """
    return _best(accept, available) if len(accept) <= _LONGEST else _best.__wrapped__(accept, available)


@lru_cache(512)
def _best(accept: str, available: tuple[str, ...]) -> str | None:
    weights = _weights(accept)
    others = weights.get("*", 0.0)
    # Mentioned by nobody, it is acceptable, and the last choice; "*" means it only where it excludes (§12.5.3).
    plain = weights.get(IDENTITY, 0.0 if weights.get("*") == 0.0 else None)
    chosen = max(available, key=lambda coding: weights.get(coding, others), default=IDENTITY)
    weight = weights.get(chosen, others)
    if weight > 0.0 and (plain is None or weight >= plain):
        return chosen
    return IDENTITY if plain != 0.0 else None


def _weights(accept: str) -> dict[str, float]:
    """The weight of each coding that `accept` names, "*" being one of them."""
    weights = {}
    for member in members(accept):
        if match := _MEMBER.fullmatch(member):
            weights[_SAME.get(match[1], match[1])] = float(match[2] or 1)
    return weights


def preference(accept: str, kind: str) -> tuple[float, int]:
    """The weight that `accept`, the value of Accept, gives the media type `kind`, by the most specific range that it
    matches, and how specific that is; (0.0, -1) where it is not wanted.
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
