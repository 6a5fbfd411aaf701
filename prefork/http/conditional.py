"""Conditional requests: whether a client's copy is still the current version (RFC 9110 §13).

Owns the comparison of validators, and the tags of encoded versions.
"""

from __future__ import annotations

import calendar
import email.utils
import re
from collections.abc import Iterator, Mapping
from itertools import islice

from prefork.http.members import MOST_MEMBERS

# These fields make an answer depend on more than the target. A request without them gets the whole file.
CONDITIONS = frozenset(("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "range"))

_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')  # RFC 9110 §8.8.3


def names(known: str, etag: str, *, strongly: bool) -> bool:
    """Whether the list of tags `known`, which may be "*", names `etag`: by the strong or the weak comparison of RFC
    9110 §8.8.3.2. In the weak one, `W/"x"` and `"x"` are the same.

    Tags beyond the first MOST_MEMBERS are ignored: a client that sends more gets the whole, or a 412, and has lost
    nothing.
    """
    if known == "*":
        return True
    if known == etag:  # the usual case: 1 us less
        return not (strongly and etag.startswith("W/"))
    if strongly:
        return any(tag == etag and not weak for weak, tag in _tags(known))
    opaque = etag.removeprefix("W/")
    return any(tag == opaque for _, tag in _tags(known))


def _tags(known: str) -> Iterator[tuple[str | None, str]]:
    """(W/ or None, opaque tag) of the first MOST_MEMBERS tags."""
    return ((match[1], match[2]) for match in islice(_TAG.finditer(known), MOST_MEMBERS))


def encoded_tag(etag: str, encoding: str) -> str:
    """The tag of the encoded version of a response that has `etag`; `etag` itself where that is malformed.

    It is weak, since another encoder may give other bytes (RFC 9110 §8.8.1). Each encoding has its own, or a cache
    would give an encoded response to a client that cannot decode it (§8.8.3.3).
    """
    match = _TAG.fullmatch(etag)
    return f'W/{match[2][:-1]}-{encoding}"' if match else etag


def unencoded_tags(known: str, encoding: str) -> str:
    """The list of tags, each made weak, that `encoded_tag` turns into those of `known`; "" where there is none."""
    end = f'-{encoding}"'
    return ", ".join(f'W/{tag.removesuffix(end)}"' for _, tag in _tags(known) if tag.endswith(end))


def precondition(fields: Mapping[str, str], etag: str, modified: str) -> int:
    """200, 304 or 412: the answer to GET or HEAD of a file with a strong `etag`, last `modified` at that HTTP-date.

    The order is that of RFC 9110 §13.2.2. Where If-Match or If-None-Match is there, the date field of the same
    pair is ignored. An invalid date is ignored, too (§13.1.3, §13.1.4).
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
    """Whether Range must be honoured: If-Range, if there is one, names this very version (RFC 9110 §13.1.5).

    It must name the strong `etag`, which a client that has a part of the file has got as well. A date is not accepted:
    it names one version only if it was sent at least a second later than it says (§8.8.2.2), and only the client could
    know that.
    """
    return fields.get("if-range", etag) == etag


def _later(modified: str, date: str) -> bool | None:
    """Whether the HTTP-date `modified` is later than `date`; None where `date` is no HTTP-date (RFC 9110 §5.6.7)."""
    try:
        parsed = email.utils.parsedate_to_datetime(date)  # reads all three forms
    except (ValueError, OverflowError):
        return None
    if parsed.utcoffset():  # mail has time zones, HTTP has only GMT; the asctime form names no zone, and is GMT as well
        return None
    known = email.utils.parsedate_to_datetime(modified)
    return calendar.timegm(known.timetuple()) > calendar.timegm(parsed.timetuple())
