"""Spooling: temporary files for request bodies that are too large for memory.

Owns the making of these files, and the text of every error about them.
"""

from __future__ import annotations

import errno
import os
import tempfile
from typing import IO

NONE = "no directory for temporary files can be written to; set TMPDIR to one"


def spool_file() -> IO[bytes]:
    """A temporary file, which is deleted once it is closed. Raises OSError with a text that says what is wrong."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise explained(error) from error


def explained(error: OSError) -> OSError:
    """An OSError like `error`, which a temporary file has raised, whose text names the request body and the directory.

    `tempfile` looks for a directory when it first needs one. It reports that there is none, whatever the cause was.
    """
    if tempfile.tempdir is not None:
        text = f"a request body cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}"
        return OSError(error.errno, text)
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as cause:  # no descriptor is left, for example
        return OSError(cause.errno, f"a request body cannot be kept on disk: {cause.strerror}")
    return OSError(errno.ENOENT, NONE)


def trouble() -> str:
    """A warning of what is wrong with temporary files in this process, "" where nothing is. Called once, at boot."""
    wished = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except OSError:
        return f"request bodies above http.body_buffer will get a 500: {explained(OSError()).strerror}"
    if wished and os.path.abspath(wished) != os.path.abspath(found):
        return f"request bodies are kept in {found}, since TMPDIR ({wished}) cannot be written to"
    return ""
