"""Estimates of how long an application's calls hold up the loop. The long ones are handed to threads beforehand.

A call that runs inline holds up the loop for as long as it waits (for a database, say); a call that is handed to a
thread costs the hand-over. So the mean wait of calls of the same kind decides. A kind is the method, and the path
without the segments that differ from one object to the next. Computing does not count as waiting, as it takes the
processor in any thread. A call is taken over after a TICK or so; so no call counts as more than a TICK, and a call that
computes for a TICK counts as one.

Two readings of the clock around each inline call find the long ones; then the next calls of their kind are measured.
The system counts a thread's processor time, and how often the thread has given up the processor of its own accord. A
call during which it never has may have been preempted, as on a loaded machine, but has not waited.
"""

from __future__ import annotations

import re
import resource
from time import monotonic, thread_time

from prefork.runtime.watcher import TICK

PAYS = 0.00005  # seconds, about the cost of a hand-over: calls that wait for longer in the mean are handed over
LONG = 0.00025  # seconds: an inline call that takes less has hardly waited
MEAN_CALLS = 32  # calls in the mean, at most; the first estimate of a new kind counts as one call
NOTHING = PAYS / 100  # seconds: a mean below this counts as 0
MEASURED = 8  # inline calls that are measured after a long one, at 2 us each: on a busy machine many are long by chance
DOUBTFUL = 0.001  # seconds: a call that waits for less, in a thread, may only have waited for the interpreter
FIRST_TRIAL, LAST_TRIAL = 16, 1024  # calls handed over before some are tried inline: twice as many after each trial
YOUNG = 4  # the first calls of each new kind, from which the next new kind is estimated
KINDS = 1024
LONGEST_PATH = 128  # characters of a path that count
CHANCES = 8  # kinds in use that are passed over, at most, to find one to forget

_USAGE = getattr(resource, "RUSAGE_THREAD", None)  # Linux and FreeBSD; see getrusage(2)
_VARIABLE = re.compile(r"(?<![^/])[^/0-9%]*[0-9%][^/]*")  # the lookbehind begins a match at a segment's start alone


class Meter:
    """Measures for how long this thread would hold up the loop, from the making of the Meter on."""

    __slots__ = ("_began", "_switches", "_used")

    def __init__(self) -> None:
        self._switches, self._used = _usage()
        self._began = monotonic()

    def held_up(self) -> float:
        """Seconds so far, TICK at the most; 0 where fewer than LONG have passed."""
        took = monotonic() - self._began
        if took < LONG:
            return 0.0
        switches, used = _usage()
        computed = used - self._used
        waited = took - computed if switches != self._switches else 0.0
        return TICK if computed >= TICK else min(waited, TICK)


def _usage() -> tuple[float, float]:
    """How often this thread has given up the processor of its own accord, and how many seconds of the processor it has
    used. A system that does not count the first gets the clock in its place, so the thread always seems to have waited.
    """
    if _USAGE is None:
        return monotonic(), thread_time()
    usage = resource.getrusage(_USAGE)
    return usage.ru_nvcsw, usage.ru_utime + usage.ru_stime


class Estimate:
    """An estimate for the calls of one kind: they wait for `mean` seconds each.

    Where `measures` is not 0, the next inline call must be measured by a Meter. Unless the estimate `is_watched`, both
    are 0: then `hands_over` need not be called, and a call shorter than LONG need not be noted. Only the thread that
    runs the loop may use an estimate.
    """

    __slots__ = (
        "_count",
        "_handed_over",
        "_is_tried",
        "_mean_calls",
        "_parent",
        "_trial",
        "is_watched",
        "mean",
        "measures",
        "used",
    )

    def __init__(self, parent: Estimate | None = None, mean: float = 0.0, mean_calls: int = MEAN_CALLS) -> None:
        self.mean = mean
        self.measures = 0
        self.is_watched = True  # until the first call is noted
        self.used = True
        self._mean_calls = mean_calls
        self._parent = parent
        self._count = 1
        self._handed_over = 0
        self._trial = FIRST_TRIAL
        self._is_tried = False  # a trial call was made inline, and no call has been noted since

    def hands_over(self) -> bool:
        """Whether the next call must be handed to another thread.

        Now and then a call is tried inline again, if the mean is within DOUBTFUL. Longer calls are not tried, as each
        trial would hold up the loop. Only one trial call of a kind, be it a new one, is under way at a time, and it
        must be noted. While it is under way, it has lost the loop, as no other call could begin otherwise; the next
        calls would then hold up the loop as well, one after the other. So these are handed over.
        """
        if self.mean <= PAYS and not self._is_tried:
            self._is_tried = True
            return False
        self._handed_over += 1
        if self.mean > DOUBTFUL or self._handed_over < self._trial:
            return True
        self._handed_over = 0
        self._trial = min(2 * self._trial, LAST_TRIAL)
        self.mean = 0.0
        self.measures = MEASURED
        self._is_tried = True
        return False

    def note(self, seconds: float, measured: bool) -> None:
        """Learn from a call that would have held up the loop for `seconds` or, if it was not `measured`, has taken so
        many in all.
        """
        self._is_tried = False
        if self.measures:
            self.measures -= 1
        if not measured and seconds > LONG:
            self.measures = MEASURED
        else:
            self._learn(seconds if measured else 0.0)
        if self.mean < NOTHING:
            self.mean = 0.0
        self.is_watched = bool(self.mean or self.measures)

    def _learn(self, held_up: float) -> None:
        if self._parent is not None and self._count <= YOUNG:
            self._parent._learn(held_up)
        if self._count < self._mean_calls:
            self._count += 1
        self.mean += (held_up - self.mean) / self._count


class _Known(Estimate):
    """The estimate for calls that wait, as the operator has said: each is handed over."""

    __slots__ = ()

    def hands_over(self) -> bool:
        return True

    def note(self, seconds: float, measured: bool) -> None:
        pass


class Estimates:
    """The estimates of one application, `by_kind`. There are at most KINDS; a kind that is not in use is forgotten
    first. At most `mean_calls` calls are in a mean, and the first `longest_path` characters of a path count.
    """

    def __init__(self, *, mean_calls: int = MEAN_CALLS, longest_path: int = LONGEST_PATH) -> None:
        self._mean_calls = mean_calls
        self._longest_path = longest_path
        self._common = Estimate(mean_calls=mean_calls)
        self.by_kind: dict[tuple[str, str], Estimate] = {}

    def find(self, method: str, path: str) -> Estimate:
        """The estimate for calls of this kind. A new kind begins with the mean of the first calls of other new kinds,
        which fades a little with each new kind.
        """
        kind = method, _VARIABLE.sub("0", path[: self._longest_path])
        found = self.by_kind.get(kind)
        if found is None:
            if len(self.by_kind) >= KINDS:
                self._forget_one()
            common = self._common
            common.mean -= common.mean / self._mean_calls
            found = self.by_kind[kind] = Estimate(common, common.mean, self._mean_calls)
        found.used = True
        return found

    def _forget_one(self) -> None:
        for _ in range(CHANCES):
            kind = next(iter(self.by_kind))
            oldest = self.by_kind.pop(kind)
            if not oldest.used:
                return
            oldest.used = False
            self.by_kind[kind] = oldest
        del self.by_kind[next(iter(self.by_kind))]


class AllWait(Estimates):
    """The estimates of an application whose calls all wait, as the operator has said (`inline = false`)."""

    def __init__(self) -> None:
        super().__init__()
        self._known = _Known(mean=1.0)

    def find(self, method: str, path: str) -> Estimate:
        return self._known
