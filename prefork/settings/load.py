"""Loading: a TOML file and the command line become Settings, or a ConfigError with every problem that there is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import structs

from prefork.errors import ConfigError
from prefork.settings import document
from prefork.settings.json_schema import json_schema
from prefork.settings.kinds import ADDRESS, DIRECTORY, SOCKET, TARGET, WORKERS
from prefork.settings.routes import is_closed, mount, nested
from prefork.settings.schema import KINDS, Listener, Master, Route, Settings, Workers
from prefork.settings.schema_files import Files
from prefork.settings.tables import Walk, keys
from prefork.settings.wording import quoted

__all__ = ["json_schema", "load"]


def load(
    path: str | None,
    *,
    app: str = "",
    files: str = "",
    listing: bool = False,
    listen: Sequence[str] = (),
    workers: str = "",
    app_dir: str = "",
) -> Settings:
    """Settings from the file `path`, if any, and what the command line puts in their place.

    `app` ("module:attribute") or `files` (a directory, with a `listing` or without) takes the route "/" of every host,
    `listen` replaces the addresses, `workers` ("auto" or a number) their count; `app_dir` goes in front of their
    pythonpath. Raises ConfigError, and nothing else.
    """
    walk = Walk(path or "")
    written = document.read(path) if path is not None else {}
    fields = walk.fields(Settings, written)
    walk.single(SOCKET, fields.get("master", Master()).control, "master.control")  # the default can be too long as well
    _check_listen(fields.get("listen"), walk)
    _check_kinds(written.get("route"), walk)
    _check_routes(fields.get("routes", ()), walk)
    _check_tries(fields.get("routes", ()), walk)
    if not app and not files and written.get("route", []) == []:
        walk.problem("route", "expected at least one [[route]], or an application on the command line")
    problems = [
        *walk.problems,
        *_override(fields, listen, workers, app_dir),
        *_override_route(fields, app, files, listing),
    ]
    if problems:
        raise ConfigError(*problems)
    return Settings(**fields, source=path or "")


def _check_listen(listeners: tuple[Listener | None, ...] | None, walk: Walk) -> None:
    if listeners == ():
        walk.problem("listen", "expected at least one address, got an empty list")
    for index, first in _twice(listener and listener.address for listener in listeners or ()):
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
    """A route is exactly one of KINDS; an unknown key may be a misspelt one, and that is said already. What says how an
    application is called stands beside one of that kind.
    """
    for index, route in enumerate(raw if isinstance(raw, list) else ()):
        if isinstance(route, dict):
            present = [kind for kind in KINDS if kind in route]
            if len(present) > 1 or (not present and route.keys() <= keys(Route).keys()):
                stands = " and ".join(present) or "none"
                walk.problem(f"route[{index}]", f"expected exactly one of {', '.join(KINDS)}; found {stands}")
            for key, kind in (("lifespan", "asgi"), ("request_buffering", "wsgi")):
                if key in route and len(present) == 1 and present[0] not in (kind, "app"):
                    walk.problem(f"route[{index}].{key}", f"expected only beside {kind} or app")


def _check_routes(routes: tuple[Route | None, ...], walk: Walk) -> None:
    """No two routes for the same requests; "/app" and "/app/" are the same prefix."""
    for index, first in _twice(route and (route.host, mount(route.path)) for route in routes):
        walk.problem(f"route[{index}]", f"the same host and path as route[{first}]")


def _check_tries(routes: tuple[Route | None, ...], walk: Walk) -> None:
    """No name to try that is never given, since another route answers for its path."""
    for index, route in enumerate(routes):
        if route is None or route.files is None:
            continue
        others = nested(route, routes)
        for pattern in route.files.try_:
            before, uri, _ = pattern.partition("$uri")
            if is_closed(f"{before}/" if uri else before, others):
                wrong = f"expected files of this route, got {quoted(pattern)}, for which another route answers"
                walk.problem(f"route[{index}].files.try", wrong)


def _twice(items: Iterable[object]) -> Iterator[tuple[int, int]]:
    """The index of each item that stood before, with the index of the first; None is no item."""
    seen: dict[object, int] = {}
    for index, item in enumerate(items):
        if item is not None and seen.setdefault(item, index) != index:
            yield index, seen[item]


def _override(fields: dict[str, Any], listen: Sequence[str], workers: str, app_dir: str) -> Iterator[str]:
    """Put the command line's word into `fields`; yields a problem for each option that is wrong."""
    if listen:
        listeners: list[Listener] = []
        for text in listen:
            try:
                listeners.append(Listener(address=ADDRESS.convert(text)))
            except ValueError as error:
                yield f"--listen: {error}"
        for index, _ in _twice(listener.address for listener in listeners):
            yield f"--listen: {listeners[index].address} is given twice"
        fields["listen"] = tuple(listeners)
    if workers:
        try:
            count = WORKERS.convert(int(workers) if re.fullmatch(r"[0-9]{1,9}", workers) else workers)
            fields["workers"] = structs.replace(fields.get("workers") or Workers(), count=count)
        except ValueError as error:
            yield f"--workers: {error}"
    if app_dir:
        try:
            table = fields.get("workers") or Workers()
            path = (DIRECTORY.convert(app_dir), *table.pythonpath)
            fields["workers"] = structs.replace(table, pythonpath=path)
        except ValueError as error:
            yield f"--app-dir: {error}"


def _override_route(fields: dict[str, Any], app: str, files: str, listing: bool) -> Iterator[str]:
    """Likewise for the route "/"."""
    if app and files:
        yield "--files: expected no application beside it"
    if listing and not files:
        yield "--listing: expected only beside --files"
    try:
        if app:
            route = Route(app=TARGET.convert(app))
        elif files:
            route = Route(files=Files(root=DIRECTORY.convert(files), listing=listing))
        else:
            return
    except ValueError as error:
        yield f"{'APP' if app else '--files'}: {error}"
        return
    others = (r for r in fields.get("routes", ()) if r is None or (r.host, r.path) != ("", "/"))
    fields["routes"] = (*others, route)
