"""Where request bodies lie that are too large for memory: temporary files, and what is told where there can be none."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import IO

NONE = "no directory for temporary files can be written to; set TMPDIR to one"


def spool_file() -> IO[bytes]:
    """A temporary file, which is gone once it is closed. Raises OSError, which says what is wrong."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise explained(error) from error


def explained(error: OSError) -> OSError:
    """`error`, which was met with such a file, in words that name the matter, and the directory.

    `tempfile` looks for a directory when it first needs one, and says that there is none whatever it has met there.
    """
    if tempfile.tempdir is not None:
        text = f"a request body cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}"
        return OSError(error.errno, text)
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as cause:  # no descriptor is left, say
        return OSError(cause.errno, f"a request body cannot be kept on disk: {cause.strerror}")
    return OSError(errno.ENOENT, NONE)


def trouble() -> str:
    """What will be wrong with temporary files in this process, "" where nothing is. To be asked once, at its boot."""
    wished = os.environ.get("TMPDIR")
    try:
        found = tempfile.gettempdir()
    except OSError:
        return f"request bodies above http.body_buffer will get a 500: {explained(OSError()).strerror}"
    if wished and os.path.abspath(wished) != os.path.abspath(found):
        return f"request bodies are kept in {found}, since TMPDIR ({wished}) cannot be written to"
    return ""
