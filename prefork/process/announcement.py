"""The announcement: the one line on standard output which says where the server serves; or why it does not."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from prefork import __version__
from prefork.errors import BootError
from prefork.observe.terminal import say
from prefork.process.generation import Generation
from prefork.settings.wording import counted

log = logging.getLogger("prefork")


def announce(generation: Generation, in_foreground: bool) -> None:
    """Print it; into the log where nobody reads standard output. Ctrl-C reaches who is `in_foreground` alone."""
    settings, workers = generation.settings, counted(generation.size, "worker")
    urls = ", ".join(
        address.url if address.port or address.kind == "unix" else _actual_url(bound.getsockname())
        for address, bound in generation.sockets.items()
        if address.number <= 1
    )
    line = (
        f"prefork {__version__} serving {urls} with {workers} "
        f"({f'config {settings.source}, ' if settings.source else ''}pid {os.getpid()}); "
        f"stop with {'Ctrl-C or ' if in_foreground else ''}`prefork stop`"
    )
    try:
        say(line)
    except OSError:  # nobody reads our stdout; what is printed from now on is to fail no more
        log.info("%s", line)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def regret(error: BootError, is_logged_elsewhere: bool) -> None:
    """Log why there is no server; on standard error, too, where the log is not that."""
    log.critical("cannot start: %s", error, extra={"report": error.report})
    if is_logged_elsewhere:
        with suppress(OSError):
            say(f"{error.report}prefork: cannot start: {error}", sys.stderr)


def _actual_url(where: tuple[str, int]) -> str:
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"http://{host}:{where[1]}/"
