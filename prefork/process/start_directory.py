"""The directory that the server was started in. Owns its name, and the rule for when a process enters it by that name.

Relative paths are relative to this directory. A deploy tool may start the server in `current`, a symlink, later point
that symlink at the next release, and remove the old release. So the server keeps the directory by the name that the
shell had for it (PWD), as gunicorn does: a reload and an upgrade enter whatever the name leads to by then. All workers
of a generation begin in the directory in which the generation was loaded. Only where that directory has been removed,
a worker that is forked later goes by the name as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefork.errors import BootError, PreforkError
from prefork.logger import log
from prefork.net import file_paths


class StartDirectory:
    """The current directory of the master, by its `name`. Every process that the master starts finds that in PWD."""

    def __init__(self) -> None:
        self.name = os.environ["PWD"] = file_paths.here()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the directory that the name leads to now, for good.

        Where it cannot be entered, the process stays where it is, and a PreforkError of the block becomes a BootError
        that says so.
        """
        try:
            file_paths.change_directory(self.name)
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
    """Where the current directory has been removed, enter the one that has its name now, if there is one."""
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
    """Whether the current directory has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
