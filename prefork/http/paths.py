"""Paths: the one spelling that a request's path is routed by, looked up by, kept by and decided about. Owns no state.

A path can be written in many ways: `//a`, `/%61`, `/b/../a`, `/b//../a`. Whoever decides by one spelling what another
acts upon can be led past. So there is one, nginx's: percent-decoded once, runs of slashes merged, then dot segments
removed. Nothing else is changed: a backslash, a semicolon, a final dot, an overlong UTF-8 sequence and the case of
letters are ordinary bytes of a name here, as they are to a POSIX file system.

Text is latin-1, a character a byte.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from prefork.errors import BadRequest
from prefork.http import grammar

LONGEST_REMEMBERED = 1024  # characters of a path by which caches remember what it leads to

_SLASHES = re.compile("//+")


def decode(path: str) -> str:
    """Percent-decode `path` once and remove its dot segments, its other slashes staying as they came.

    A `..` takes away the segment before it and the slashes between them, however many: so `merge(decode(path))` is
    what comes out where slashes are merged first, as nginx does it. RFC 3986 §5.2.4 would take `/a//..` for `/a/`.
    Raises BadRequest for a malformed escape, a NUL, and for dot segments that climb above the root.
    """
    if "%" in path:
        if grammar.BAD_ESCAPE.search(path):
            raise BadRequest("a malformed percent-escape in the path (RFC 3986 §2.1)")
        path = unquote_to_bytes(path).decode("latin-1")
        if "\0" in path:
            raise BadRequest("a NUL in the path")
    if "/." not in path:
        return path
    segments = path.split("/")
    kept: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            while kept and not kept[-1]:
                kept.pop()
            if not kept:
                raise BadRequest("a path that climbs above the root")
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")  # they name a directory
    return "/" + "/".join(kept)


def merge(path: str) -> str:
    """`path` with one slash where there are several; itself where there are none to merge."""
    return _SLASHES.sub("/", path) if "//" in path else path


def below(path: str, mount: str) -> str:
    """What `path`, its slashes as they came, has behind the segments of `mount`, with which `merge(path)` begins.

    So an application at "/app" that is asked for `//app//x` gets `//x`: merged, mount and rest are the path again.
    """
    at = 0
    for segment in mount.split("/")[1:]:
        while path[at] == "/":
            at += 1
        at += len(segment)
    return path[at:]
