"""The surroundings that `[workers]` gives the application: environment variables, directory and module path."""

from __future__ import annotations

import os
import sys
import time

from prefork.settings.schema import Workers


def settle(workers: Workers) -> None:
    """Make this process the application's home, before it is imported. Relative paths are the master's until then."""
    os.environ.update(workers.env)
    time.tzset()  # where TZ is among them
    path = [os.path.abspath(directory) for directory in workers.pythonpath]
    os.chdir(workers.chdir)
    home = os.getcwd()  # where people keep the application that they name
    own = [*path, home]
    sys.path[:] = [*own, *(entry for entry in sys.path if entry not in own)]
