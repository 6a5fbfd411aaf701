"""The router: host and path -> Handler. The most specific host that has a matching path wins, then the longest path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from prefork.http.body_limit import BodyLimit
from prefork.http.message import Handler, Request, Response, plain
from prefork.settings.routes import mount

VIEWS = 4  # hosts remembered per request line, so that a client that makes up host names fills no memory
LONGEST_HOST = 64  # characters of a host whose route a line remembers, as clients may make up hosts


async def not_found(request: Request) -> Response:
    return plain(404)


async def whole_server(request: Request) -> Response:
    """`OPTIONS *` asks the server, not a resource, and is a ping (RFC 9110 §9.3.7)."""
    return Response(204)


class Router:
    """Routes are (host, path prefix, handler): host "" is any host, "*.example.com" is every name under example.com.

    A prefix matches whole segments: "/app" and "/app/" both match "/app" and "/app/x", not "/apple". A request that no
    route matches gets the handler `otherwise`. The `vital` handlers answer however full the server is. The `repeatable`
    ones need not be called where a request repeats itself. `limits` maps the handlers of some routes to the routes' own
    limits on request bodies.
    """

    def __init__(
        self,
        routes: Iterable[tuple[str, str, Handler]],
        otherwise: Handler = not_found,
        vital: Iterable[Handler] = (),
        limits: Mapping[Handler, BodyLimit] = MappingProxyType({}),
        repeatable: Iterable[Handler] = (),
    ) -> None:
        self._otherwise = otherwise
        self._limits = limits
        self.vital = frozenset(vital)
        self.repeatable = frozenset(repeatable)
        self._hosts: dict[str, list[tuple[str, Handler]]] = {}
        for host, path, handler in routes:
            self._hosts.setdefault(host, []).append((mount(path), handler))
        for paths in self._hosts.values():
            paths.sort(key=lambda route: len(route[0]), reverse=True)
        self._anywhere = self._hosts.keys() <= {""}

    def find(self, request: Request) -> Handler:
        """The handler for `request`: the matching route's, or `otherwise`. `OPTIONS *` has a handler of its own."""
        views = request.line.prepared
        host = "" if self._anywhere else request.host.lower()
        key = (self, host) if host else self
        handler: Handler | None = views.get(key)
        if handler is None:  # clients repeat their request lines; a line that is kept remembers its handler
            handler = self._search(host, request.path)
            if len(views) < VIEWS and len(host) <= LONGEST_HOST:
                views[key] = handler
        return handler

    def body_limit(self, request: Request) -> BodyLimit | None:
        """The limit on the body of `request`; None where its route sets none."""
        return self._limits.get(self.find(request)) if self._limits else None

    def _search(self, host: str, path: str) -> Handler:
        if path == "*":
            return whole_server
        for candidate in _candidates(host):
            for prefix, handler in self._hosts.get(candidate, ()):
                if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
                    return handler
        return self._otherwise


def _candidates(host: str) -> list[str]:
    """The host names to look for, most specific first: the name itself, "*." and each of its parents, then "" (any)."""
    name = host if host.endswith("]") else host.rpartition(":")[0] if ":" in host else host
    name = name.rstrip(".")
    labels = name.split(".")
    return [name, *("*." + ".".join(labels[at:]) for at in range(1, len(labels))), ""]
