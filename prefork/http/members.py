"""Members of list fields (RFC 9110 §5.6.1). Owns the bound on how many of them are read; owns no field.

A head of 32 KiB can hold thousands of members. To read one takes 1 to 20 us, and all are read in one turn of the loop.
So where members only tell a client's preferences, those beyond MOST_MEMBERS are ignored. A field that frames a message
or closes its connection is read to its end (http/h1/parse.py): that is a `split`, 1 ms at most.
"""

from __future__ import annotations

MOST_MEMBERS = 100  # browsers send 10; empty ones count too, as a recipient must accept "a reasonable number" of them


def members(value: str) -> list[str]:
    """The first MOST_MEMBERS members of `value`, in lower case, without the white space around them."""
    return [member.strip(" \t") for member in value.lower().split(",", MOST_MEMBERS)[:MOST_MEMBERS]]
