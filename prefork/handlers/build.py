"""Builds the router: route settings -> Handlers.

It imports the applications: `build` in a worker, `load_applications` in the process that workers are forked from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from prefork.errors import TargetError
from prefork.handlers.apps.interface import Interface, load_application
from prefork.handlers.apps.saturation import Saturation
from prefork.handlers.apps.wsgi.application import Wsgi
from prefork.handlers.apps.wsgi.input import Unbuffered
from prefork.handlers.apps.wsgi.wait_estimate import AllWait, Estimates
from prefork.handlers.encode.compression import Compression
from prefork.handlers.error_pages import ErrorPages
from prefork.handlers.files.cache import FileCache
from prefork.handlers.files.listing import Queue
from prefork.handlers.files.static import Files
from prefork.handlers.fixed import redirect, respond
from prefork.handlers.router import Router, not_found
from prefork.handlers.status import status
from prefork.http.body_limit import BodyLimit
from prefork.http.message import Handler, Request
from prefork.runtime.threads import ThreadPool
from prefork.settings.routes import is_closed, mount, nested
from prefork.settings.schema import Compression as CompressionSettings
from prefork.settings.schema import Route, Workers

Snapshot = Callable[[], Mapping[str, object]]
Load = Callable[[str, str], tuple[Interface, Any]]  # as load_application

NO_PAGES = ErrorPages({})
NO_COMPRESSION = CompressionSettings()


def _no_asgi() -> AsgiHost:
    raise TargetError("ASGI applications are served by workers only")


class AsgiHost(Protocol):
    """Runs ASGI applications. Asgi (asgi/application.py) implements this; it is imported, and asyncio with it, only
    where there is an ASGI application.
    """

    def handler(self, application: Any, mount: str, lifespan: bool) -> Handler: ...

    def start_up(self) -> None: ...

    def run(self) -> None: ...

    def running(self) -> Request | None: ...

    def requests(self) -> list[Request]: ...

    def stacks(self) -> str: ...

    async def finished(self) -> None: ...

    async def end(self) -> None: ...

    async def shut_down(self, timeout: float) -> None: ...

    def close(self) -> None: ...

    def close_in_child(self) -> None: ...


class Wrapper(NamedTuple):
    """Makes one handler of another. It `is_pure` if the same bytes of a request's head and the same response of the
    other handler always give the same response. All others are called for every request.
    """

    around: Callable[[Handler], Handler]
    is_pure: bool = False


@dataclass(frozen=True)
class Host:
    """The worker as its handlers know it.

    The threads of `pool` call WSGI applications, by the settings `workers`. A status route shows `snapshot`. `roots` is
    the directory that the roots of `files` routes are relative to; `cache` keeps their files. `pages` puts error pages
    in the place of the server's own answers; `compression` is the settings for encoding any answer. `asgi` returns the
    AsgiHost, which is made for the first ASGI application. `load` imports WSGI and ASGI applications.
    """

    pool: ThreadPool
    workers: Workers
    snapshot: Snapshot
    roots: str
    cache: FileCache
    multiprocess: bool = True
    pages: ErrorPages = NO_PAGES
    compression: CompressionSettings = NO_COMPRESSION
    asgi: Callable[[], AsgiHost] = _no_asgi
    load: Load = load_application


def build(routes: Sequence[Route], host: Host) -> Router:
    """The router for `routes`. Raises TargetError, and any exception that importing an application raises.

    A route's Repeatable responses are sent again without a call of its handler, but only where all its wrappers are
    pure. A wrapper is called twice with the very same Request where a WSGI application uses write() (wsgi/write.py): a
    wrapper that counts requests must recognize the second call.
    """
    compression = cache(lambda: Compression(host.compression))  # made, and its encodings imported, if a route wants it
    built, vital, repeatable, limits, queue = [], [], [], {}, Queue(host.pool.loop)
    saturation = Saturation(host.pool)
    for route in routes:
        path = _spelled(route.path)
        if route.files is not None:
            handler: Handler = _files(route, routes, host, queue)
        else:
            handler = _handler(route, mount(path), host, saturation)
        wrappers = [Wrapper(host.pages.around, is_pure=True)]
        if host.compression.enabled if route.compression is None else route.compression:
            compress = partial(compression().around, keeps=route.files is not None)
            wrappers.append(Wrapper(compress, is_pure=True))
        handler, is_pure = wrapped(handler, wrappers)
        if is_pure:
            repeatable.append(handler)
        built.append((route.host, path, handler))
        if route.status:
            vital.append(handler)
        if route.max_body is not None:
            limits[handler] = BodyLimit(route.max_body, f"max_body of the route {route.host}{route.path}")
    return Router(built, host.pages.around(not_found), vital, limits, repeatable)


def wrapped(handler: Handler, wrappers: Iterable[Wrapper]) -> tuple[Handler, bool]:
    """`handler` within these, the first one innermost; and whether all that are in force are pure."""
    is_pure = True
    for wrapper in wrappers:
        around = wrapper.around(handler)
        is_pure = is_pure and (wrapper.is_pure or around is handler)
        handler = around
    return handler, is_pure


def load_applications(routes: Sequence[Route]) -> Load:
    """Import the applications of `routes` now. Returns a function that gives them to `build`, in the routes' order.

    It serves one `build` of the same routes in each process that is forked from this one. Raises as `build` does.
    """
    loaded = [load_application(*_target(route)) for route in routes if route.app or route.wsgi or route.asgi]
    if any(interface is Interface.ASGI for interface, _ in loaded):
        prepare_asgi()
    applications = iter(loaded)
    return lambda target, key: next(applications)


def prepare_asgi() -> None:
    """Import the code that runs ASGI applications, and asyncio with it, so that no forked copy has to import them."""
    import_module("prefork.handlers.apps.asgi.application")


def _target(route: Route) -> tuple[str, str]:
    """The target of an application's route, and the key ("app", "wsgi" or "asgi") that names it there."""
    return next((getattr(route, key), key) for key in ("app", "wsgi", "asgi") if getattr(route, key) is not None)


def _spelled(path: str) -> str:
    """A route's path spelled as a request's is: latin-1, one character a byte."""
    return path.encode().decode("latin-1")


def _files(route: Route, routes: Sequence[Route], host: Host, queue: Queue) -> Files:
    assert route.files is not None
    root, mounted = os.path.join(host.roots, route.files.root), mount(_spelled(route.path))
    others = [(_spelled(path), closed) for path, closed in nested(route, routes)]
    if not any(closed for _, closed in others):
        return Files(route.files, root, mounted, host.cache, queue)
    return Files(route.files, root, mounted, host.cache, queue, partial(is_closed, paths=others))


def _handler(route: Route, mounted: str, host: Host, saturation: Saturation) -> Handler:
    if route.respond is not None:
        return respond(route.respond)
    if route.redirect is not None:
        return redirect(route.redirect)
    if route.status:
        return status(host.snapshot)
    return _application(route, mounted, host, saturation)


def _application(route: Route, mounted: str, host: Host, saturation: Saturation) -> Handler:
    """The Handler of a route's application. Where the route does not name the interface, the application tells it."""
    target, key = _target(route)
    if key == "asgi":
        host.asgi()  # before the import: the application's module may ask for the current asyncio loop
    found, application = host.load(target, key)
    if found is Interface.ASGI:
        return host.asgi().handler(application, mounted, route.lifespan == "auto")
    workers = host.workers
    host.pool.wanted = True
    wsgi = Wsgi(
        application,
        mounted,
        host.pool,
        multiprocess=host.multiprocess,
        timeout=workers.timeout if route.timeout is None else route.timeout,
        queue_timeout=workers.queue_timeout,
        saturation=saturation,
        estimates=Estimates() if route.inline else AllWait(),
    ).handle
    return wsgi if route.request_buffering else Unbuffered(wsgi, host.pool).handle
