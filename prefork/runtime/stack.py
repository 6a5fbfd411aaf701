"""Stacks: where a thread or a coroutine is, for a log that explains what is stuck. Owns how such a stack is shown."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from itertools import dropwhile
from types import FrameType
from typing import Any

_DEEPEST = 200  # frames
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + "/"


def stack(thread: int) -> str:
    """Where the thread with this ident is, outermost call first: from the call of an application on, or the whole stack
    where it calls none. "" if the thread has ended.

    Calls that an application makes into prefork are shown: it may be stuck below them.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    from_us = dropwhile(lambda frame: not _is_ours(frame), frames)
    below = list(dropwhile(_is_ours, from_us))
    return "".join(traceback.format_list(below or frames))


def stacks() -> str:
    """Where every thread except the current one is, each under its name; the main thread first."""
    named = {thread.ident: thread.name for thread in threading.enumerate()}
    others = [thread for thread in sys._current_frames() if thread != threading.get_ident()]
    others.sort(key=lambda thread: thread != threading.main_thread().ident)
    return "".join(f"{named.get(thread, thread)}:\n{stack(thread)}" for thread in others)


def awaited(coroutine: Any) -> str:
    """Where a suspended coroutine waits, outermost call first, from where it leaves our code on; "" where it does not.

    The chain of awaits is followed through coroutines and generators. One link is shown to the garbage collector alone:
    the object between an asynchronous generator and the coroutine that awaits its next item.
    """
    frames = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in _suspended(coroutine))
    below = list(dropwhile(_is_ours, frames))
    return "".join(traceback.format_list(below))


def _suspended(waiting: Any) -> Iterator[FrameType]:
    for _ in range(_DEEPEST):
        if inspect.iscoroutine(waiting):
            frame, inner = waiting.cr_frame, waiting.cr_await
        elif inspect.isgenerator(waiting):
            frame, inner = waiting.gi_frame, waiting.gi_yieldfrom
        elif inspect.isasyncgen(waiting):
            frame, inner = waiting.ag_frame, waiting.ag_await
        else:
            frame, inner = None, next(filter(_may_be_suspended, gc.get_referents(waiting)), None)
        if frame is not None:
            yield frame
        if inner is None:
            return
        waiting = inner


def _may_be_suspended(thing: object) -> bool:
    return inspect.iscoroutine(thing) or inspect.isgenerator(thing) or inspect.isasyncgen(thing)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PACKAGE)
