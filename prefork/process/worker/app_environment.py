"""The app environment: the user, the environment variables, the directory and the module path that applications run
with, and how long a thread may keep the interpreter. Owns its set-up, which happens once, for good.
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

SWITCH = 0.0005  # seconds that a computing thread may keep the interpreter from the thread that runs the loop


@dataclass(frozen=True)
class AppEnvironment:
    """The result of `set_up`. `pages` are the error pages; `roots` is the directory that the paths of the settings are
    relative to; `load` gives each route its application.
    """

    pages: ErrorPages
    roots: str
    load: Load


def set_up(settings: Settings) -> AppEnvironment:
    """Set up the app environment of this process. `load` imports an application when a route asks for it. Raises
    StartError.

    Privileges are dropped first: the files that are read here may belong to another user than root.
    """
    privileges.drop(settings.master)
    start_directory.enter_by_name()
    pages, roots = _pages(settings.error_pages), file_paths.absolute(os.curdir)
    settle(settings.workers)
    return AppEnvironment(pages, roots, load_application)


def _pages(files: Mapping[str, str]) -> ErrorPages:
    """The error pages that the settings name. Raises StartError where a file cannot be read."""
    try:
        return ErrorPages(files)
    except OSError as error:
        user = privileges.called(os.geteuid())
        raise StartError(f"error_pages: {error.filename} cannot be read by {user}: {error.strerror}") from None


def settle(workers: Workers) -> None:
    """Set the switch interval, and the environment variables, current directory and module path of `workers`. To be
    called before the application is imported. All paths of `workers` are relative to the master's directory.

    Raises StartError where the directory cannot be entered.
    """
    # Before the import, so that an application may set its own; copies of a template inherit either.
    sys.setswitchinterval(SWITCH)
    os.environ.update(workers.env)
    time.tzset()  # TZ may be among them
    path = [file_paths.absolute(directory) for directory in workers.pythonpath]
    try:
        os.chdir(workers.chdir)
    except OSError as error:
        user = privileges.called(os.geteuid())
        raise StartError(f"workers.chdir: {workers.chdir} cannot be entered by {user}: {error.strerror}") from None
    home = file_paths.absolute(os.curdir)  # most applications lie here
    own = [*path, home]
    sys.path[:] = [*own, *(entry for entry in sys.path if entry not in own)]
