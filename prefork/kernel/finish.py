"""How a process ends in order that leaves by os._exit, past the frames of whoever has forked it."""

from __future__ import annotations

import atexit
import sys
import threading
from contextlib import suppress


def finish() -> None:
    """Wait for the process's own threads, let its executors finish, run its exit functions, and flush what it printed.

    Whatever these raise is told on stderr by the interpreter, as at any other end. In another thread than the main one,
    which does not end then, no thread is waited for.
    """
    try:
        if threading.current_thread() is threading.main_thread():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        flush()


def flush() -> None:
    """Flush what print has buffered, lest it leaves twice, or never. Nobody may be reading it any more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed; None, where an application has it so
            stream.flush()
