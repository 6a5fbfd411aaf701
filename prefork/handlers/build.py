"""Builds the router: route settings -> Handlers. Where applications are imported, hence called in workers only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from prefork.handlers.files import Files
from prefork.handlers.pages import Pages
from prefork.handlers.respond import redirect, respond
from prefork.handlers.router import Router, mount, not_found
from prefork.handlers.status import status
from prefork.handlers.target import load_callable
from prefork.handlers.wsgi import Wsgi
from prefork.http.message import Handler
from prefork.settings.schema import Route

Snapshot = Callable[[], Mapping[str, object]]


NO_PAGES = Pages({})


def build(routes: Sequence[Route], snapshot: Snapshot, *, multiprocess: bool, pages: Pages = NO_PAGES) -> Router:
    """The router for `routes`; `snapshot` is what a status route shows, `pages` dress the server's own answers.

    Raises TargetError, and whatever importing an application raises.
    """
    built = []
    roots = os.getcwd()  # before an application is imported, which may change it
    for route in routes:
        path = route.path.encode().decode("latin-1")  # as a request's path is: a character a byte
        handler = _handler(route, mount(path), roots, snapshot, multiprocess)
        built.append((route.host, path, pages.around(handler)))
    return Router(built, pages.around(not_found))


def _handler(route: Route, mounted: str, roots: str, snapshot: Snapshot, multiprocess: bool) -> Handler:
    if route.files is not None:
        return Files(os.path.join(roots, route.files.root), route.files.index, route.files.max_age, mounted)
    if route.wsgi is not None:
        return Wsgi(load_callable(route.wsgi), mounted, multiprocess=multiprocess).handle
    if route.respond is not None:
        return respond(route.respond)
    if route.redirect is not None:
        return redirect(route.redirect)
    return status(snapshot)
