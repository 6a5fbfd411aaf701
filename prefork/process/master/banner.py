"""The banner: the one line on standard output that says where the server serves. Owns this line, and the one that says
why a server cannot start.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress

from prefork import __version__
from prefork.errors import BootError
from prefork.logger import log
from prefork.observe.terminal import say
from prefork.process.master.reach import CONFIG
from prefork.process.messages import encodable
from prefork.process.pool.generation import Generation
from prefork.settings.address import Address
from prefork.settings.wording import counted


def print_banner(generation: Generation, in_foreground: bool, has_control: bool) -> None:
    """Print the banner, or log it where nobody reads standard output. It names Ctrl-C only for a server that is
    `in_foreground`, and `prefork stop` only for one that has a control socket.
    """
    settings, workers = generation.settings, counted(generation.size, "worker")
    named = f" -c {shlex.quote(settings.source)}" if settings.source not in ("", CONFIG) else ""
    urls = ", ".join(address.url for address in _actual_addresses(generation))
    line = (
        f"prefork {__version__} serving {urls} with {workers} "
        f"({f'config {settings.source}, ' if settings.source else ''}pid {os.getpid()}); "
        f"stop with {'Ctrl-C or ' if in_foreground else ''}{f'`prefork stop{named}`' if has_control else 'SIGTERM'}"
    )
    try:
        say(line)
    except OSError:  # nobody reads standard output; from now on, what is printed is dropped
        log.info("%s", line)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def regret(error: BootError, is_logged_elsewhere: bool) -> None:
    """Log why the server cannot start. Where the log goes elsewhere, say it on standard error, too."""
    log.critical("cannot start: %s", error, extra={"report": error.report})
    if is_logged_elsewhere:
        with suppress(OSError):
            say(f"{error.report}prefork: cannot start: {error}", sys.stderr)


def serving(generation: Generation) -> list[str]:
    """The addresses that the server is reached by, with the ports that the kernel has chosen."""
    return [encodable(str(address)) for address in _actual_addresses(generation)]


def _actual_addresses(generation: Generation) -> Iterator[Address]:
    for address, bound in generation.sockets.items():
        if address.number <= 1:
            yield address if address.port or address.kind == "unix" else Address("tcp", *bound.getsockname()[:2])
