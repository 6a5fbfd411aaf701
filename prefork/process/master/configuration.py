"""The configuration, read and checked. Owns the checks that the settings layer cannot make: they take other layers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from prefork.errors import ConfigError
from prefork.handlers.encode.encodings import missing
from prefork.observe.access_log import compile_format
from prefork.runtime.poller import POLLERS
from prefork.settings.load import load
from prefork.settings.overrides import Override
from prefork.settings.schema import Settings
from prefork.settings.wording import to_install

CAN_PRELOAD = sys.platform == "linux"  # see template.py


def read(
    path: str | None,
    *,
    app: str = "",
    files: str = "",
    listing: bool = False,
    listen: Sequence[str] = (),
    app_dir: str = "",
    overrides: Sequence[Override] = (),
) -> Settings:
    """Settings that this platform can serve. The arguments are those of settings.load.load. Raises ConfigError."""
    settings = load(path, app=app, files=files, listing=listing, listen=listen, app_dir=app_dir, overrides=overrides)
    problems = [f"{settings.source}: {problem}" for problem in _judge(settings)]
    if problems:
        raise ConfigError(*problems)
    return settings


def _judge(settings: Settings) -> Iterator[str]:
    event_loop = settings.workers.event_loop
    if event_loop != "auto" and event_loop not in POLLERS:
        yield f"workers.event_loop: this platform has no {event_loop}; it has {', '.join(POLLERS)}"
    if settings.workers.preload and not CAN_PRELOAD:
        yield "workers.preload: only Linux can give the copies of a process to its parent"
    for coding in () if settings.compression.codings == "auto" else settings.compression.codings:
        if package := missing(coding):
            yield f"compression.codings: {coding} needs the package {package}: {to_install(package)}"
    try:
        compile_format(settings.log.format)
    except ValueError as error:
        yield f"log.format: {error}"
