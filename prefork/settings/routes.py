"""Nested routes: owns which paths below a route belong to another one. Matches no requests; see handlers/router."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefork.settings.schema import Route

Nested = Sequence[tuple[str, bool]]  # a path below a route's, without a final slash, and True if it is closed to that


def mount(path: str) -> str:
    """A route's path as a prefix to cut off: "" for "/", else without the final slash (PEP 3333's SCRIPT_NAME)."""
    return path.rstrip("/")


def nested(route: Route, routes: Iterable[Route | None]) -> Nested:
    """The paths of other routes below that of `route`, relative to it, the longest first.

    A path is closed to `route` if the other route answers there by itself: with a refusal, say, or by an application
    that asks for a password. Files and redirects do not close a path: the outer route may still have a file for a
    directory there. Routes of other hosts do not count: a client that one host refuses may ask `route` by its Host.
    """
    own = mount(route.path)
    found = [
        (mount(other.path)[len(own) :], other.files is None and other.redirect is None)
        for other in routes
        if other is not None and other.host == route.host and mount(other.path).startswith(own + "/")
    ]
    return sorted(found, key=lambda one: len(one[0]), reverse=True)


def is_closed(path: str, paths: Nested) -> bool:
    """Whether the longest of the `paths` that `path` begins with, by whole segments, is closed."""
    for prefix, closed in paths:
        if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
            return closed
    return False
