"""Conditional requests: whether what the client knows still holds (RFC 9110 §13).

Owns the comparison of validators, and the tags of what is encoded.
"""

from __future__ import annotations

import calendar
import email.utils
import re
from collections.abc import Iterator, Mapping
from itertools import islice

from prefork.http.members import MOST

# The fields that make an answer depend on more than the target; a request without them gets the whole file.
CONDITIONS = frozenset(("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "range"))

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')  # RFC 9110 §8.8.3


def names(known: str, etag: str, *, strongly: bool) -> bool:
    """Whether the list of tags `known`, which may be "*", names `etag`, by the one or the other comparison of RFC 9110
    §8.8.3.2. Weakly, `W/"x"` and `"x"` are the same. A tag beyond the first MOST is not seen: who sends so many gets
    the whole, or a 412, and has lost nothing.
    """
    if known == "*":
        return True
    if known == etag:  # as a rule: 1 us less
        return not (strongly and etag.startswith("W/"))
    if strongly:
        return any(tag == etag and not weak for weak, tag in _tags(known))
    opaque = etag.removeprefix("W/")
    return any(tag == opaque for _, tag in _tags(known))


def _tags(known: str) -> Iterator[tuple[str | None, str]]:
    """The first MOST tags, each with its W/ or None."""
    return ((match[1], match[2]) for match in islice(_TAG.finditer(known), MOST))


def encoded_tag(etag: str, encoding: str) -> str:
    """The tag of what has `etag`, once it is encoded: a weak one, as who codes it anew may get other bytes (RFC 9110
    §8.8.1), and another for each encoding, or a cache would give what is encoded to who cannot read it (§8.8.3.3).
    """
    match = _TAG.fullmatch(etag)
    return f'W/{match[2][:-1]}-{encoding}"' if match else etag


def unencoded_tags(known: str, encoding: str) -> str:
    """The tags of which those in the list `known` are the encoded ones, "" where none is."""
    end = f'-{encoding}"'
    return ", ".join(f'W/{tag.removesuffix(end)}"' for _, tag in _tags(known) if tag.endswith(end))


def precondition(fields: Mapping[str, str], etag: str, modified: str) -> int:
    """200, 304 or 412: the answer to GET or HEAD of a file with a strong `etag`, `modified` at that HTTP-date.

    In the order of RFC 9110 §13.2.2: of each pair the tag decides alone where there is one. A date that is none says
    nothing (§13.1.3, §13.1.4).
    """
    if "if-match" in fields:
        if not names(fields["if-match"], etag, strongly=True):
            return 412
    elif "if-unmodified-since" in fields and _later(modified, fields["if-unmodified-since"]) is True:
        return 412
    if "if-none-match" in fields:
        return 304 if names(fields["if-none-match"], etag, strongly=False) else 200
    since = fields.get("if-modified-since")
    return 304 if since and (since == modified or _later(modified, since) is False) else 200


def range_holds(fields: Mapping[str, str], etag: str) -> bool:
    """Whether Range is to be honoured: If-Range, if there is one, names this very version (RFC 9110 §13.1.5).

    By its strong tag, which whoever has a part of it has, and is to use. A date names no version unless it was sent at
    least a second later than it says (§8.8.2.2), which only who got it could tell.
    """
    return fields.get("if-range", etag) == etag


def _later(modified: str, date: str) -> bool | None:
    """Whether the HTTP-date `modified` is later than `date`; None where that is none (RFC 9110 §5.6.7)."""
    try:
        parsed = email.utils.parsedate_to_datetime(date)  # reads all three forms
    except (ValueError, OverflowError):
        return None
    if parsed.utcoffset():  # mail has time zones, HTTP has not; no zone at all is the asctime form, in GMT as well
        return None
    known = email.utils.parsedate_to_datetime(modified)
    return calendar.timegm(known.timetuple()) > calendar.timegm(parsed.timetuple())
