"""Stacks: where a thread is, for a log that explains what is stuck."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from itertools import dropwhile

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + "/"


def stack(thread: int) -> str:
    """Where the thread with this ident is, outermost call first, from where we call an application; "" if it has ended.

    What an application calls of ours is shown: it may be stuck below that.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    from_us = dropwhile(lambda frame: not _is_ours(frame), frames)
    below = list(dropwhile(_is_ours, from_us))
    return "".join(traceback.format_list(below or frames))


def stacks() -> str:
    """Where every thread is but the one that asks, each under its name; the main one first."""
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    others = [thread for thread in sys._current_frames() if thread != threading.get_ident()]
    others.sort(key=lambda thread: thread != threading.main_thread().ident)
    return "".join(f"{named.get(thread, thread)}:\n{stack(thread)}" for thread in others)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PACKAGE)
