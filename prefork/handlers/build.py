"""Builds the router: route settings -> Handlers. Where applications are imported, hence called in workers only."""

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
    """Runs ASGI applications: Asgi of asgi/application.py, which is imported, with asyncio, where there is one."""

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
    """Makes one handler of another. It `is_pure` where its outcome depends on nothing but the bytes of the request's
    head and the outcome of the other. A wrapper that looks at the client or the time, or counts, is not, and sees each
    request.
    """

    around: Callable[[Handler], Handler]
    is_pure: bool = False


@dataclass(frozen=True)
class Host:
    """The worker as its handlers know it: who calls applications, and by which settings; what a status route shows;
    what dresses the server's own answers, and what codes any; the directory that the files' roots are relative to, and
    what keeps files. `asgi` makes what runs ASGI applications, once there is one; `load` imports them all.
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
    """The router for `routes`. Raises TargetError, and whatever importing an application raises.

    A route's Repeatable responses are sent again without its handler being asked, but only where all its wrappers are
    pure. A wrapper is asked twice about the very same Request where a WSGI application writes (wsgi/write.py): one that
    counts requests has to know them again.
    """
    compression = cache(lambda: Compression(host.compression))  # where no route wants it, nothing is imported for it
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
    """Import the applications of `routes` now; what gives them to `build` for the same routes, once in each process
    that is a copy of this one. Raises as `build` does.
    """
    loaded = [load_application(*_target(route)) for route in routes if route.app or route.wsgi or route.asgi]
    if any(interface is Interface.ASGI for interface, _ in loaded):
        prepare_asgi()
    applications = iter(loaded)
    return lambda target, key: next(applications)


def prepare_asgi() -> None:
    """Import what hosts ASGI applications, and asyncio with it: where a process does that, no copy of it has to."""
    import_module("prefork.handlers.apps.asgi.application")


def _target(route: Route) -> tuple[str, str]:
    """The target of an application's route, and by which key it is named."""
    return next((getattr(route, key), key) for key in ("app", "wsgi", "asgi") if getattr(route, key) is not None)


def _spelled(path: str) -> str:
    """A route's path as a request's is: a character a byte."""
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
    """The Handler of an application, of the kind that it is where the route does not say."""
    target, key = _target(route)
    if key == "asgi":
        host.asgi()  # before the application is imported, which may ask for the current asyncio loop
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
