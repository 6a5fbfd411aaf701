"""`prefork status` for people. Owns the layout: the state of the server comes first, and all of it fits a terminal of
80 columns.
"""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefork.observe.error_log import escape
from prefork.settings.wording import counted

Figures = dict[str, Any]

# fields that an older master does not send: after an installation, the command is of the new version before the master
_UNSAID: Figures = {"stopping": False, "deaths": {"count": 0, "last": None}, "next_attempt": None}

MINUTE, HOUR, DAY = 60, 3600, 86400  # seconds
_HEAD = "      pid gen state       age  open  requests    cpu s     MiB"


def table(status: Figures, width: int = 80) -> str:
    """The figures of status.describe as text, in lines of at most `width` columns, but for longer words."""
    status = {**_UNSAID, **status}
    master, totals, reload = status["master"], status["totals"], status["last_reload"]
    facts = [
        ("workers", _workers(status)),
        ("deaths", _deaths(status)),
        ("listens on", ", ".join(master["listen"])),
        ("config", f"{master['config'] or '(command line)'}, loaded {_local(master['loaded'])}"),
        ("last reload", _reload(reload)),
        ("requests", f"{totals['requests']} on {totals['accepted']} connections, {totals['sent']} bytes sent"),
        ("lost", _lost(totals.get("lost_lines", {}))),
    ]
    lines = [
        f"prefork {status['version']}, master {master['pid']} since {_local(master['started'])}, "
        f"generation {master['generation']}{', about to stop' if status['stopping'] else ''}"
    ]
    for name, fact in facts:
        if fact:
            lines += textwrap.wrap(
                f"  {name:<11} {escape(fact)}",
                width,
                subsequent_indent=" " * 14,
                break_long_words=False,
                break_on_hyphens=False,
                drop_whitespace=True,
            )
    if status["workers"]:
        lines += ["", _HEAD]
    for worker in status["workers"]:
        lines += _rows(worker, width)
    return "\n".join(lines)


def _workers(status: Figures) -> str:
    """How many workers serve, and what keeps the others from it."""
    master, states = status["master"], Counter(worker["state"] for worker in status["workers"])
    wanted, serving = master["workers"], states.pop("serving", 0)
    said = f"{serving} of {wanted} serve" if serving else f"NONE SERVES: 0 of {wanted} workers"
    if master.get("phase") == "leaving" and not status["stopping"]:
        return f"{said}; they have been told to leave, and a reload brings new ones"
    said += "".join(f", {count} {state}" for state, count in states.items())
    if status["next_attempt"] is not None:
        said += f"; the next attempt in {max(0.0, status['next_attempt'] - time.time()):.0f} s"
    return said


def _deaths(status: Figures) -> str:
    count, last = status["deaths"]["count"], status["deaths"]["last"]
    if not last:
        return ""
    return f"{count} in this generation, the last {_span(time.time() - last['at'])} ago: {last['reason']}"


def _lost(lines: Figures) -> str:
    """How many log lines could not be written, "" for none."""
    return ", ".join(f"{counted(number, 'line')} of the {name} log" for name, number in lines.items() if number)


def _reload(reload: Figures | None) -> str:
    if not reload:
        return ""
    return f"{_local(reload['at'])}, {'done' if reload['ok'] else 'FAILED: ' + reload['message']}"


def _rows(worker: Figures, width: int) -> Iterator[str]:
    """A worker's line, and one for its oldest request, or one that says that the worker does not answer."""
    yield (
        f"  {worker['pid']:>7} {worker['generation']:>3} {worker['state']:<8} {_span(worker['age']):>6} "
        f"{worker['connections']:>5} {worker['requests']:>9} {worker['cpu']:>8.2f} {worker['memory'] / 2**20:>7.1f}"
    )
    longest = worker["longest"]
    if not worker["answers"]:
        yield f"{'':14}(it does not answer)"
    elif longest:
        line = f"{'':14}{longest['age']:.1f} s {escape(longest['request'])}"
        yield line if len(line) <= width else f"{line[: width - 3]}..."


def _span(seconds: float) -> str:
    """A time in one unit, rounded down but for seconds: "59 s", "3 min", "5 h", "12 d"."""
    seconds = max(0.0, seconds)
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f} min"
    return f"{seconds // HOUR:.0f} h" if seconds < DAY else f"{seconds // DAY:.0f} d"


def _local(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
