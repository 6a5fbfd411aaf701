"""Stacks: where a thread is, for a log that explains what is stuck."""

from __future__ import annotations

import os
import sys
import traceback

_OURS = tuple(os.path.dirname(os.path.dirname(__file__)) + f"/{layer}/" for layer in ("kernel", "handlers"))


def stack(thread: int) -> str:
    """Where the thread with this ident is, outermost call first, without our own frames; "" if it has ended."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return ""
    frames = traceback.extract_stack(frame)
    inner = [number for number, frame in enumerate(frames, 1) if frame.filename.startswith(_OURS)]
    return "".join(traceback.format_list(frames[max(inner, default=0) :] or frames))
