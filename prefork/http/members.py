"""Members of list fields (RFC 9110 §5.6.1): how many of them are looked at. Owns no field.

A head of 32 KiB can hold thousands of members, and to look at each takes 1 to 20 us, all in one turn of the loop. So
where members only say what a client would rather have, those beyond MOST say nothing. What frames a message or closes
its connection is read whole (http/h1/parse.py): that is a `split`, 1 ms at most.
"""

from __future__ import annotations

MOST = 100  # browsers send 10; empty ones count, as a recipient has to take "a reasonable number" of them


def members(value: str) -> list[str]:
    """The first MOST members of `value`, without the spaces around them, in lower case."""
    return [member.strip(" \t") for member in value.lower().split(",", MOST)[:MOST]]
