"""Paths. Owns the one spelling of a request's path, by which it is routed, looked up, cached and permitted; no state.

A path can be written in many ways: `//a`, `/%61`, `/b/../a`, `/b//../a`. A check of one spelling can be bypassed where
another spelling is acted upon. So there is only one, nginx's: percent-decoded once, runs of slashes merged, then dot
segments removed. Nothing else is changed: a backslash, a semicolon, a final dot, an overlong UTF-8 sequence and the
case of letters are ordinary bytes of a name here, as they are to a POSIX file system.

Text is latin-1, one character a byte.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from prefork.errors import BadRequest
from prefork.http import grammar

LONGEST_REMEMBERED = 1024  # characters of a path: caches remember no longer ones

_SLASHES = re.compile("//+")


def decode(path: str) -> str:
    """Percent-decode `path` once and remove its dot segments. All other slashes stay as they came.

    A `..` removes the segment before it and all slashes between the two. So `merge(decode(path))` gives the same path
    as nginx, which merges slashes first. RFC 3986 §5.2.4 would make `/a/` of `/a//..`, and this makes `/` of it.
    Raises BadRequest for a malformed escape, an escaped NUL, and dot segments that climb above the root.
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
        kept.append("")  # a final dot segment names a directory
    return "/" + "/".join(kept)


def merge(path: str) -> str:
    """`path` with each run of slashes merged into one; `path` itself where there is no run."""
    return _SLASHES.sub("/", path) if "//" in path else path


def below(path: str, mount: str) -> str:
    """The rest of `path`, its slashes as they came, behind the segments of `mount`. `merge(path)` begins with `mount`.

    So an application at "/app" gets `//x` of `//app//x`. Mount and rest, merged, are the merged path again.
    """
    at = 0
    for segment in mount.split("/")[1:]:
        while path[at] == "/":
            at += 1
        at += len(segment)
    return path[at:]
