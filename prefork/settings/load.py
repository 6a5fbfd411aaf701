"""Loading: owns how a TOML file and the command line become Settings, or a ConfigError with every problem."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prefork.errors import ConfigError
from prefork.settings import document
from prefork.settings.json_schema import json_schema
from prefork.settings.kinds import SOCKET
from prefork.settings.overrides import Override, override, override_listen, override_path, override_route
from prefork.settings.routes import is_closed, mount, nested
from prefork.settings.schema import KINDS, Listener, Master, Route, Settings
from prefork.settings.tables import Walk, keys, twice
from prefork.settings.wording import quoted

# keys of a route that only some kinds of applications have
BESIDE = {
    "lifespan": ("asgi", "app"),
    "request_buffering": ("wsgi", "app"),
    "inline": ("wsgi", "app"),
    "max_body": ("wsgi", "asgi", "app"),
}

__all__ = ["json_schema", "load"]


def load(
    path: str | None,
    *,
    app: str = "",
    files: str = "",
    listing: bool = False,
    listen: Sequence[str] = (),
    app_dir: str = "",
    overrides: Sequence[Override] = (),
) -> Settings:
    """Settings from the file `path`, if any, and from the command line, which overrides it.

    `app` ("module:attribute") or `files` (a directory, with a `listing` or without) takes the route "/" of every host,
    `listen` replaces the addresses, `app_dir` goes in front of the workers' pythonpath, and `overrides` set further
    keys. Raises ConfigError, and nothing else.
    """
    walk = Walk(path or "")
    written = document.read(path) if path is not None else {}
    fields = walk.fields(Settings, written)
    if path is not None:  # the default is relative to this directory, so it can be too long, too
        walk.single(SOCKET, fields.get("master", Master()).control, "master.control")
    elif not _is_somewhere():
        walk.problem("workers.chdir", "expected a directory for the application, but the current directory is gone")
    _check_listen(fields.get("listen"), walk)
    _check_kinds(written.get("route"), walk)
    _check_routes(fields.get("routes", ()), walk)
    _check_tries(fields.get("routes", ()), walk)
    if not app and not files and written.get("route", []) == []:
        walk.problem("route", "expected at least one [[route]], or an application on the command line")
    problems = [
        *walk.problems,
        *override_listen(fields, listen),
        *override(fields, overrides),
        *override_path(fields, app_dir),
        *override_route(fields, app, files, listing),
    ]
    if problems:
        raise ConfigError(*problems)
    return Settings(**fields, source=path or "")


def _is_somewhere() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _check_listen(listeners: tuple[Listener | None, ...] | None, walk: Walk) -> None:
    if listeners == ():
        walk.problem("listen", "expected at least one address, got an empty list")
    for index, first in twice(listener and listener.address for listener in listeners or ()):
        walk.problem(f"listen[{index}]", f"the same address as listen[{first}]")
    for index, listener in enumerate(listeners or ()):
        if listener and listener.address.kind != "tcp" and listener.reuse_port:
            walk.problem(f"listen[{index}].reuse_port", f"expected only beside a port, not {listener.address}")
        if listener and listener.address.kind != "unix":
            for key in ("mode", "owner", "group"):
                if getattr(listener, key) is not None:
                    walk.problem(
                        f"listen[{index}].{key}", f"expected only beside a unix socket, not {listener.address}"
                    )


def _check_kinds(raw: object, walk: Walk) -> None:
    """A route has exactly one of KINDS; an unknown key, already reported, may be a misspelt one. The keys of BESIDE
    stand only beside an application of a fitting kind.
    """
    for index, route in enumerate(raw if isinstance(raw, list) else ()):
        if isinstance(route, dict):
            present = [kind for kind in KINDS if kind in route]
            if len(present) > 1 or (not present and route.keys() <= keys(Route).keys()):
                stands = " and ".join(present) or "none"
                walk.problem(f"route[{index}]", f"expected exactly one of {', '.join(KINDS)}; found {stands}")
            for key, fitting in BESIDE.items():
                if key in route and len(present) == 1 and present[0] not in fitting:
                    walk.problem(f"route[{index}].{key}", f"expected only beside {' or '.join(fitting)}")


def _check_routes(routes: tuple[Route | None, ...], walk: Walk) -> None:
    """No two routes for the same requests; "/app" and "/app/" are the same prefix."""
    for index, first in twice(route and (route.host, mount(route.path)) for route in routes):
        walk.problem(f"route[{index}]", f"the same host and path as route[{first}]")


def _check_tries(routes: tuple[Route | None, ...], walk: Walk) -> None:
    """A path to try must not belong to another route, which would answer for it."""
    for index, route in enumerate(routes):
        if route is None or route.files is None:
            continue
        others = nested(route, routes)
        for pattern in route.files.try_:
            before, uri, _ = pattern.partition("$uri")
            if is_closed(f"{before}/" if uri else before, others):
                wrong = f"expected files of this route, got {quoted(pattern)}, for which another route answers"
                walk.problem(f"route[{index}].files.try", wrong)
