"""How a process ends in order that leaves by os._exit, past the frames of whoever has forked it."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from contextlib import suppress
from math import inf


def finish(patience: float = inf) -> None:
    """Wait for the process's own threads, let its executors finish, run its exit functions, and flush what it printed.

    Whatever these raise is told on stderr by the interpreter, as at any other end. In another thread than the main one,
    which does not end then, no thread is waited for. What was started by multiprocessing, and does not end within
    `patience` seconds, is sent SIGTERM; the exit functions of Python would wait for it for ever.
    """
    try:
        if patience < inf and "multiprocessing" in sys.modules:
            threading.Thread(target=_end_children, args=[patience], daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        flush()


def _end_children(patience: float) -> None:
    children = sys.modules["multiprocessing"].active_children()
    time.sleep(patience)
    for child in children:
        with suppress(OSError, ValueError):  # it has ended, and has been closed
            child.terminate()


def flush() -> None:
    """Flush what print has buffered, lest it leaves twice, or never. Nobody may be reading it any more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed; None, where an application has it so
            stream.flush()
