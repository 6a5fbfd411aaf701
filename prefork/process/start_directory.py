"""The directory that the server was started in: relative paths are relative to it. Owns what becomes of its name.

A deploy tool starts the server in `current`, a symlink that it leads to the next release later on, and removes an old
release. So the directory is kept by the name that the shell had for it (PWD), as gunicorn keeps it: a reload and an
upgrade go by that name to the release of now. The workers of a generation all begin in the directory in which it was
loaded; only where that has been removed, one that takes the place of another goes by the name as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefork.errors import BootError, PreforkError
from prefork.logger import log
from prefork.net import file_paths


class StartDirectory:
    """The current directory of the master, by its `name`, which all that descends from it finds in PWD."""

    def __init__(self) -> None:
        self.name = os.environ["PWD"] = file_paths.here()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Go where the name leads now, for good. Where that cannot be we stay, and what fails then says so."""
        try:
            file_paths.enter(self.name)
        except OSError as error:
            lost = "lead nowhere" if _is_removed() else "are still relative to the old directory"
            problem = f"cannot enter {self.name}, where this server was started: {error.strerror}"
            log.warning("%s; relative paths %s", problem, lost)
            with _explained(problem):
                yield
        else:
            yield


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    try:
        yield
    except PreforkError as error:
        raise BootError(f"{error} ({problem})", getattr(error, "report", "")) from None


def enter_by_name() -> None:
    """Where the current directory has been removed, go to the one that has its name now, if there is one."""
    if not _is_removed():
        return
    name = file_paths.here()
    try:
        os.chdir(name)
    except OSError:
        log.warning("%s, where this server was started, has been removed; relative paths lead nowhere", name)
    else:
        log.warning("%s, where this server was started, has been replaced; going on in the new one", name)


def _is_removed() -> bool:
    """Whether the current directory is one that has no name any more."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
