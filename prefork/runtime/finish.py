"""Finishing: an orderly end for a process that leaves by os._exit, past the frames of the process that forked it."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from contextlib import suppress
from math import inf

import psutil

from prefork.logger import log
from prefork.settings.wording import counted

NAMED_THREADS = 10  # threads that are named in the log, at most


def finish(patience: float = inf, threads: float = inf) -> None:
    """Wait for the process's own threads, let its executors finish, run its exit functions, and flush what it printed.

    The threads have `threads` seconds; those that have not ended then are named in the log, and not waited for. Without
    that limit the main thread waits for all, and any other thread for none, as the main one does not end then. The
    interpreter tells on stderr what an exit function raises, as at any other end.

    Child processes that do not end within `patience` seconds are sent SIGTERM, as Python's exit functions would wait
    for those of multiprocessing for ever. Children that the exit functions leave are sent it at once. Without
    `patience`, no child is sent anything.
    """
    try:
        if patience < inf:
            threading.Thread(target=_end_children, args=[patience], daemon=True).start()
        if threads < inf:
            _await_threads(threads)
        elif threading.current_thread() is threading.main_thread():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        if patience < inf:
            _end_children()
        flush()


def _await_threads(seconds: float) -> None:
    waiting = threading.Thread(target=threading._shutdown, daemon=True)  # type: ignore[attr-defined]
    waiting.start()
    waiting.join(seconds)
    if waiting.is_alive():
        main = threading.main_thread()
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        log.warning("not waiting any longer for %s: %s", counted(len(left), "thread"), ", ".join(left[:NAMED_THREADS]))


def _end_children(patience: float = 0.0) -> None:
    time.sleep(patience)
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended, or runs as another user by now
            child.terminate()


def flush() -> None:
    """Flush what print has buffered, or it would leave twice, or never. The reader may be gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed; None, where an application has it so
            stream.flush()
