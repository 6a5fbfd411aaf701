"""How a process ends in order that leaves by os._exit, past the frames of whoever has forked it."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from contextlib import suppress
from math import inf

from prefork.logger import log
from prefork.settings.wording import counted

TOLD = 10  # threads that are named


def finish(patience: float = inf, threads: float = inf) -> None:
    """Wait for the process's own threads, let its executors finish, run its exit functions, and flush what it printed.

    The threads have so many seconds; those that have not ended then are named in the log, and not waited for.
    Whatever these raise is told on stderr by the interpreter, as at any other end. In another thread than the main one,
    which does not end then, no thread is waited for. What was started by multiprocessing, and does not end within
    `patience` seconds, is sent SIGTERM; the exit functions of Python would wait for it for ever.
    """
    try:
        if patience < inf and "multiprocessing" in sys.modules:
            threading.Thread(target=_end_children, args=[patience], daemon=True).start()
        if threads < inf:
            _await_threads(threads)
        elif threading.current_thread() is threading.main_thread():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        flush()


def _await_threads(seconds: float) -> None:
    waiting = threading.Thread(target=threading._shutdown, daemon=True)  # type: ignore[attr-defined]
    waiting.start()
    waiting.join(seconds)
    if waiting.is_alive():
        main = threading.main_thread()
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        log.warning("not waiting any longer for %s: %s", counted(len(left), "thread"), ", ".join(left[:TOLD]))


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
