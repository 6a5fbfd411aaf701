"""Estimates of how long calls of an application hold up the loop: those that do are handed to threads beforehand.

A call that runs inline holds up the loop for as long as it waits (for a database, say); a call that is handed to a
thread costs the hand-over. So what decides is the mean wait of its kind: the method, and the path without what differs
from one object to the next. Computing is not waiting: it takes the processor wherever it is done. Any call would
be taken over after a TICK or so, so none counts as more, and one that computes for a TICK counts as that.

Two readings of the clock around each inline call tell those that take long; the next ones of their kind are measured.
The system counts a thread's processor time, and how often it has given up the processor of its own accord: a call that
never has was at most preempted, as on a loaded machine, and has not waited.
"""

from __future__ import annotations

import re
import resource
from time import monotonic, thread_time

from prefork.runtime.watcher import TICK

PAYS = 0.00005  # seconds of waiting in the mean from which on a hand-over pays: what that costs, about
LONG = 0.00025  # seconds: an inline call that takes less has hardly waited
MOST = 32  # calls of which the mean is made; before there are so many, what a new kind is taken for counts as one
NOTHING = PAYS / 100  # seconds: a mean that does not count
MEASURED = 8  # inline calls that are measured after one that was long: at 2 us each, as a busy machine makes many so
DOUBTFUL = 0.001  # seconds: calls that wait for less, in a thread, may have waited for the interpreter
FIRST_TRIAL, LAST_TRIAL = 16, 1024  # calls handed over before some are made inline again: twice as many each time
YOUNG = 4  # calls of a new kind from which the next new kind is estimated
KINDS = 1024
LONGEST = 128  # characters of a path that are looked at
CHANCES = 8  # kinds that are in use and pass the turn to be forgotten, at most

_USAGE = getattr(resource, "RUSAGE_THREAD", None)  # Linux and FreeBSD; see getrusage(2)
_VARIABLE = re.compile(r"(?<![^/])[^/0-9%]*[0-9%][^/]*")  # a segment is looked at once, not from each of its characters


class Meter:
    """How long this thread would hold up the loop, from here on."""

    __slots__ = ("_began", "_switches", "_used")

    def __init__(self) -> None:
        self._switches, self._used = _usage()
        self._began = monotonic()

    def held_up(self) -> float:
        """Seconds, so far; TICK at the most."""
        took = monotonic() - self._began
        if took < LONG:
            return 0.0
        switches, used = _usage()
        computed = used - self._used
        waited = took - computed if switches != self._switches else 0.0
        return TICK if computed >= TICK else min(waited, TICK)


def _usage() -> tuple[float, float]:
    """How often this thread has given up the processor of its own accord, and seconds of it that it has used. Where the
    former is not told, it has always.
    """
    if _USAGE is None:
        return monotonic(), thread_time()
    usage = resource.getrusage(_USAGE)
    return usage.ru_nvcsw, usage.ru_utime + usage.ru_stime


class Estimate:
    """Of the calls of one kind: `mean` seconds each. Where `measures` is not 0, the next inline call is to be measured
    by a Meter. Unless it `is_watched`, both are 0, and there is nothing to ask, nor to note of a call that takes no
    LONG time. The thread that runs the loop owns this.
    """

    __slots__ = ("_count", "_handed_over", "_is_tried", "_parent", "_trial", "is_watched", "mean", "measures", "used")

    def __init__(self, parent: Estimate | None = None, mean: float = 0.0) -> None:
        self.mean = mean
        self.measures = 0
        self.is_watched = True  # until the first call is noted
        self.used = True
        self._parent = parent
        self._count = 1
        self._handed_over = 0
        self._trial = FIRST_TRIAL
        self._is_tried = False  # a call was to be made inline, and none has been noted since

    def hands_over(self) -> bool:
        """Whether the next call is to be made by a thread.

        Now and then one that is DOUBTFUL is tried inline again. Others are not, as each trial would hold up the loop.
        One call at a time tries a kind, and a new one too; each of these is to be noted. Where it is still under way it
        has lost the loop, or nobody could ask: the next ones would hold up the loop as well, one after the other.
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
        """A call has held up its thread for that long, or, where it was not `measured`, has taken that long."""
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
        if self._count < MOST:
            self._count += 1
        self.mean += (held_up - self.mean) / self._count


class _Known(Estimate):
    """The operator has said that these calls wait."""

    __slots__ = ()

    def hands_over(self) -> bool:
        return True

    def note(self, seconds: float, measured: bool) -> None:
        pass


class Estimates:
    """Those of one application, by kind: at most KINDS, of which those that are asked for stay."""

    def __init__(self) -> None:
        self._common = Estimate()
        self._by_kind: dict[tuple[str, str], Estimate] = {}

    def find(self, method: str, path: str) -> Estimate:
        """That of calls such as this. One of a new kind is estimated as other new ones were."""
        kind = method, _VARIABLE.sub("0", path[:LONGEST])
        found = self._by_kind.get(kind)
        if found is None:
            if len(self._by_kind) >= KINDS:
                self._forget_one()
            common = self._common
            common.mean -= common.mean / MOST
            found = self._by_kind[kind] = Estimate(common, common.mean)
        found.used = True
        return found

    def _forget_one(self) -> None:
        for _ in range(CHANCES):
            kind = next(iter(self._by_kind))
            oldest = self._by_kind.pop(kind)
            if not oldest.used:
                return
            oldest.used = False
            self._by_kind[kind] = oldest
        del self._by_kind[next(iter(self._by_kind))]


class AllWait(Estimates):
    """Where the operator has said that calls wait."""

    def __init__(self) -> None:
        super().__init__()
        self._known = _Known(mean=1.0)

    def find(self, method: str, path: str) -> Estimate:
        return self._known
