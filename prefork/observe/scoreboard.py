"""The scoreboard: what every worker counts, in memory that all processes share. Owns the layout of a slot.

Made by the master before it forks. Each word has one writer, so there are no locks: the worker writes the counters,
STATE and PULSE, the master the others, and an aligned word of 64 bits is never seen half written. CONNECTIONS cannot
wrap below zero: a memoryview of unsigned words refuses -1 by a ValueError, in the worker at fault.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from enum import IntEnum

from prefork.errors import BootError
from prefork.http.counts import CONNECTIONS, WIDTH

# The words of a slot after the counters.
PID = WIDTH
GENERATION = WIDTH + 1
STATE = WIDTH + 2
STARTED = WIDTH + 3  # milliseconds of Unix time; 0 marks a free slot
PULSE = WIDTH + 4  # as a double: when the turn began that the worker's loop is in (monotonic seconds); 0: in none
ORDER = WIDTH + 5  # how many Orders the master has given, times 4, plus the last; who is sent ORDERED looks here

_CACHE_LINE = 8  # words; slots that shared one would slow each other's workers down
_HIGHEST = PID  # in slot 0, which belongs to no process: the highest slot ever taken
_STOPPING = STATE  # in slot 0: 1 once the server is about to stop
_STRIDE = -(-(ORDER + 1) // _CACHE_LINE) * _CACHE_LINE
_MODULO = 1 << 64


class State(IntEnum):
    """Where a worker stands, as it writes into its own STATE. EMPTY in a slot that is taken means BOOTING."""

    EMPTY = 0
    BOOTING = 1
    SERVING = 2
    DRAINING = 3


class Order(IntEnum):
    """What a worker is to do. NONE is what there is before the first."""

    NONE = 0
    LEAVE = 1
    STAND_BY = 2  # take no clients any more, until there is another order
    SERVE = 3  # take clients, which nobody does by itself


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A slot that is taken. `started` is Unix time in seconds; `counts` is indexed as in prefork.http.counts."""

    index: int
    pid: int
    generation: int
    state: State
    started: float
    counts: tuple[int, ...]


class Scoreboard:
    """Room for `slots` workers of all generations, numbered from 1. Slot 0 keeps what departed workers have counted."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._words = memoryview(mmap.mmap(-1, (slots + 1) * _STRIDE * 8)).cast("Q")

    def slot(self, index: int) -> memoryview:
        """The words of slot `index`, live."""
        return self._words[index * _STRIDE : (index + 1) * _STRIDE]

    def column(self, word: int) -> list[int]:
        """One word of every slot up to the highest that was ever taken, in order: 0.3 us for four workers."""
        end = (self._words[_HIGHEST] + 1) * _STRIDE
        return self._words[_STRIDE + word : end : _STRIDE].tolist()

    def pulse(self, index: int) -> memoryview[float]:
        """The one word PULSE of slot `index`, live."""
        return self.slot(index)[PULSE : PULSE + 1].cast("B").cast("d")

    def free(self) -> int:
        """The first slot that is not taken; BootError if there is none."""
        for index in range(1, self._slots + 1):
            if not self.slot(index)[STARTED]:
                return index
        raise BootError(f"all {self._slots} scoreboard slots are taken: too many workers are still draining")

    def occupy(self, index: int, pid: int, generation: int) -> None:
        """Take the slot. Before the fork, with pid 0, it is a reservation; call it again once the pid is known.

        Touches nothing that the worker writes, which by now may be running.
        """
        slot = self.slot(index)
        slot[PID] = pid
        slot[GENERATION] = generation
        slot[STARTED] = time.time_ns() // 1_000_000
        highest = self.slot(0)
        highest[_HIGHEST] = max(highest[_HIGHEST], index)

    def order(self, index: int, order: Order) -> None:
        """Have the worker know what it is that the master asks of it."""
        slot = self.slot(index)
        slot[ORDER] = (slot[ORDER] // 4 + 1) * 4 + order

    def orders(self, index: int) -> tuple[int, Order]:
        """How many orders the worker has been given, and the last."""
        count, order = divmod(self.slot(index)[ORDER], 4)
        return count, Order(order)

    def vacate(self, index: int) -> None:
        """Free the slot of a worker that has been reaped and keep its counts, save CONNECTIONS: those ended with it."""
        slot, departed = self.slot(index), self.slot(0)
        for word in range(WIDTH):
            if word != CONNECTIONS:
                departed[word] = (departed[word] + slot[word]) % _MODULO
        for word in range(_STRIDE):
            slot[word] = 0

    def stop(self) -> None:
        """Have all know that the server is about to stop."""
        self._words[_STOPPING] = 1

    @property
    def stopping(self) -> bool:
        return bool(self._words[_STOPPING])

    def workers(self) -> list[WorkerRow]:
        """The slots that are taken, in order."""
        rows = []
        for index in range(1, self._words[_HIGHEST] + 1):
            words = self.slot(index).tolist()
            if words[STARTED]:
                state = State(words[STATE] or State.BOOTING)
                counts = tuple(words[:WIDTH])
                rows.append(WorkerRow(index, words[PID], words[GENERATION], state, words[STARTED] / 1000, counts))
        return rows

    def totals(self) -> tuple[int, ...]:
        """The counters summed over all slots, departed workers included."""
        slots = [self.slot(index)[:WIDTH].tolist() for index in range(self._words[_HIGHEST] + 1)]
        return tuple(sum(column) % _MODULO for column in zip(*slots, strict=True))
