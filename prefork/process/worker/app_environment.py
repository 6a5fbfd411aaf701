"""The surroundings of applications: user, environment variables, directory, module path, and how long a thread may keep
the interpreter; entered once, for good.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from prefork.errors import StartError
from prefork.handlers.apps.interface import load_application
from prefork.handlers.build import Load
from prefork.handlers.error_pages import ErrorPages
from prefork.net import file_paths
from prefork.process import start_directory
from prefork.process.worker import privileges
from prefork.settings.schema import Settings, Workers

SWITCH = 0.0005  # seconds that a thread which computes keeps the interpreter from the one that runs the loop


@dataclass(frozen=True)
class AppEnvironment:
    """What is known once they are entered: the error pages; `roots`, the directory that the paths of the settings are
    relative to; and `load`, which gives each route its application.
    """

    pages: ErrorPages
    roots: str
    load: Load


def enter(settings: Settings) -> AppEnvironment:
    """Make this process the applications' home; they are imported as they are asked for. Raises StartError.

    The first thing that is done is to drop privileges: whatever is read here may be another's than root's.
    """
    privileges.drop(settings.master)
    start_directory.enter_by_name()
    pages, roots = _pages(settings.error_pages), file_paths.absolute(os.curdir)
    settle(settings.workers)
    return AppEnvironment(pages, roots, load_application)


def _pages(files: Mapping[str, str]) -> ErrorPages:
    """Raises StartError."""
    try:
        return ErrorPages(files)
    except OSError as error:
        user = privileges.called(os.geteuid())
        raise StartError(f"error_pages: {error.filename} cannot be read by {user}: {error.strerror}") from None


def settle(workers: Workers) -> None:
    """Make this process the application's home, before it is imported. Relative paths are the master's until then.

    Raises StartError.
    """
    # Not behind the import, so that an application may say otherwise; copies of a template inherit either.
    sys.setswitchinterval(SWITCH)
    os.environ.update(workers.env)
    time.tzset()  # where TZ is among them
    path = [file_paths.absolute(directory) for directory in workers.pythonpath]
    try:
        os.chdir(workers.chdir)
    except OSError as error:
        user = privileges.called(os.geteuid())
        raise StartError(f"workers.chdir: {workers.chdir} cannot be entered by {user}: {error.strerror}") from None
    home = file_paths.absolute(os.curdir)  # where people keep the application that they name
    own = [*path, home]
    sys.path[:] = [*own, *(entry for entry in sys.path if entry not in own)]
