"""Spellings of paths, of which nginx takes each as listed: held against the router alone, and against a whole server.

nginx 1.22 had `location = /private`, `/private/` and `/static/private/`, a root for the rest, and `merge_slashes on`.
"""

from __future__ import annotations

PRIVATE = [
    *("/private", "/private/", "/private/x", "/private?q", "/private//x", "/private/./x", "/private/.", "//private/x"),
    *("///private", "/./private", "/.//private/x", "/private/%2e%2e/private/x", "/x;/../private"),
    *("/%70rivate/x", "/%2Fprivate/x", "/%2fprivate", "/private%2Fx", "/%2e/private/x", "/private/%2Fx"),
    *("/a/../private", "/a/..//private/x", "/a//../private/x", "/a/%2e%2e/private/x", "/a%2F..%2Fprivate"),
    *("/a/b//../../private/x", "/a//b/../..//private/x", "/public/../private/../private"),
    *("/static/private/", "/static//private/x", "//static/private/x", "/static/x/..//private/x"),
    *("http://a/private", "http://a//private/x", "http://b/./private", "http://A./private/x", "http://a:81//private"),
]
"""What is refused: paths below those locations."""

OPEN = [
    *("/", "//", "/x", "/privat", "/privates", "/PRIVATE/x", "/private.", "/private%20/x", "/private;a=1/x", "/..."),
    *("/..;/private/x", "/a/..;/private/x", "/\\private/x", "/private\\x", "/%5Cprivate", "/%c0%afprivate/x"),
    *("/%e0%80%afprivate/x", "/%252Fprivate/x", "/%252e%252e/private", "/private%3Fx", "/private%23x", "/?/private/x"),
    *("/private/..", "/private/../x", "/private//..//x", "/x/private", "/static/x//private", "http://private/"),
]
"""What is not refused."""

BAD = [
    *("/..", "/../private/x", "//../private/x", "/a/../../private", "/a//..//..//private", "/%2e%2e/private/x"),
    *("/.%2e%2Fprivate", "/private%00", "/private%00/x", "/%zz/private"),
]
"""What is a 400."""
