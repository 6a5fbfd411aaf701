"""The scoreboard: what the master says of its workers, and each worker of itself, in memory that all processes share.
Owns the layout of both.

The master writes the roster, which workers can only read. Each worker writes a page of its own, which the other workers
can only read (shared/memory.py). So a worker, in which an application lives, can damage its own page and nothing else;
and the words of a page are believed as far as they can be true. The page of slot 0 is the master's own.

Each word has one writer, so there are no locks, and an aligned word of 64 bits is never seen half written. CONNECTIONS
cannot wrap below zero: a memoryview of unsigned words refuses -1 by a ValueError, in the worker at fault.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from enum import IntEnum
from math import inf

from prefork.errors import BootError, StartError
from prefork.shared.activity import busy
from prefork.shared.counters import BUSY, BUSY_BEFORE, BUSY_UNTIL, GAUGES, WIDTH
from prefork.shared.memory import create, map_memory

# The words of a worker's page after the counters.
STATE = WIDTH
PULSE = WIDTH + 1  # as a double: when the worker's loop began its turn (monotonic seconds); 0: in none (Loop.pulse)
ACCESS_FAILURE = WIDTH + 2  # the errno of the last line counted in ACCESS_LOST
ERROR_FAILURE = WIDTH + 3  # and in ERROR_LOST

# The words of a slot of the roster.
_PID = 0
_GENERATION = 1
_STARTED = 2  # milliseconds of Unix time; 0 marks a free slot
_ORDER = 3  # 4 times the number of Orders that the master has given, plus the last; on a message ORDER, read this
_HELD = 4  # 1 while SIGSTOP or the like holds the worker
_BORN = 5  # monotonic milliseconds
_SLOT = 8  # words: a cache line

# The words of the roster before its slots.
_HIGHEST = 0  # the highest slot ever taken
_STOPPING = 1  # 1 once the server is about to stop
_DEPARTED = 2  # the counts of workers that are gone
_HEADER = -(-(_DEPARTED + WIDTH) // _SLOT) * _SLOT

_PAGE = mmap.ALLOCATIONGRANULARITY  # bytes
_STRIDE = _PAGE // 8
_MODULO = 1 << 64
_MOST = 1 << 40  # of anything that is counted, in a second: a higher count is not believed
STUCK = 1.0  # seconds in one turn, after which a worker is not said to serve


class State(IntEnum):
    """Where a worker stands. It writes SERVING and DRAINING into its own STATE; before that stands EMPTY, for
    BOOTING.
    """

    EMPTY = 0
    BOOTING = 1
    SERVING = 2
    DRAINING = 3
    STUCK = 4  # its loop has been in one turn for STUCK seconds
    STOPPED = 5  # by SIGSTOP or the like
    UNKNOWN = 6  # its page makes no sense


class Order(IntEnum):
    """An order of the master to a worker. NONE stands there before the first."""

    NONE = 0
    LEAVE = 1
    STAND_BY = 2  # take no clients any more, until there is another order
    SERVE = 3  # take clients, which no worker does by itself


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A slot that is taken. `started` is Unix time in seconds; `counts` is indexed as in prefork.shared.counters."""

    index: int
    pid: int
    generation: int
    state: State
    started: float
    counts: tuple[int, ...]


class Board:
    """The scoreboard as every process may read it: slots numbered from 1, for the workers of all generations."""

    def __init__(self, roster: mmap.mmap, pages: mmap.mmap) -> None:
        self._roster = memoryview(roster).cast("Q")
        self._pages = memoryview(pages).cast("Q")
        self._beats = memoryview(pages).cast("d")
        self._memories = roster, pages

    def map_own_page(self, index: int, pages: int) -> memoryview:
        """The page of slot `index`, as words that this process, the slot's worker, may write. Maps it by the descriptor
        `pages`, and closes that. Raises OSError.
        """
        try:
            return memoryview(map_memory(pages, _PAGE, index * _PAGE, writable=True)).cast("Q")
        finally:
            os.close(pages)

    def slot(self, index: int) -> memoryview:
        """The words of the page of slot `index`, live."""
        return self._pages[index * _STRIDE : (index + 1) * _STRIDE]

    def column(self, word: int) -> list[int]:
        """One word of every page up to the highest slot that was ever taken, in order: 0.3 us for four workers. Another
        column may be longer, as the master takes slots meanwhile.
        """
        end = (self._roster[_HIGHEST] + 1) * _STRIDE
        return self._pages[_STRIDE + word : end : _STRIDE].tolist()

    def generations(self) -> list[int]:
        """The generation in each slot, in the order of `column`."""
        end = _HEADER + (self._roster[_HIGHEST] + 1) * _SLOT
        return self._roster[_HEADER + _SLOT + _GENERATION : end : _SLOT].tolist()

    def generation(self, index: int) -> int:
        """The generation of the worker in slot `index`."""
        return self._roster[_at(index, _GENERATION)]

    def turn(self, index: int) -> float:
        """When the loop of the worker in slot `index` began the turn that it is in (monotonic seconds); inf: it is in
        none; -inf: the loop cannot have written that word.
        """
        beat = self._beats[index * _STRIDE + PULSE]
        if 0.0 < beat <= time.monotonic():
            return beat
        return inf if beat == 0.0 else -inf  # NaN as well

    def busy(self) -> list[int]:
        """How many connections of each worker are busy, in the order of `column`."""
        now = time.monotonic()
        end = (self._roster[_HIGHEST] + 1) * _STRIDE
        columns = [self._pages[_STRIDE + word : end : _STRIDE].tolist() for word in (BUSY, BUSY_BEFORE, BUSY_UNTIL)]
        turns = self._beats[_STRIDE + PULSE : end : _STRIDE].tolist()
        return [
            busy(count, before, until, began if 0.0 < began < now else now)
            for count, before, until, began in zip(*columns, turns, strict=True)
        ]

    def orders(self, index: int) -> tuple[int, Order]:
        """How many orders the worker has been given, and the last one."""
        count, order = divmod(self._roster[_at(index, _ORDER)], 4)
        return count, Order(order)

    def counts(self, index: int) -> tuple[int, ...]:
        """The counts of the worker in slot `index`; 0 for a count that it cannot have reached since it was born."""
        age = time.monotonic_ns() // 1_000_000_000 - self._roster[_at(index, _BORN)] // 1000
        most = _MOST * (age + 1)
        return tuple(count if count <= most else 0 for count in self.slot(index)[:WIDTH].tolist())

    def state(self, index: int) -> State:
        """Where the worker stands. It serves where the master has told it to, it says so, and its loop turns."""
        if self._roster[_at(index, _HELD)]:
            return State.STOPPED
        order = self.orders(index)[1]
        if order is not Order.SERVE:
            return State.BOOTING if order is Order.NONE else State.DRAINING
        said = self.slot(index)[STATE]
        if said > State.DRAINING:
            return State.UNKNOWN
        if said != State.SERVING:
            return State(said or State.BOOTING)
        began = self.turn(index)
        if began == -inf:
            return State.UNKNOWN
        return State.STUCK if time.monotonic() - began >= STUCK else State.SERVING

    @property
    def stopping(self) -> bool:
        return bool(self._roster[_STOPPING])

    def workers(self) -> list[WorkerRow]:
        """The slots that are taken, in order."""
        rows = []
        for index in range(1, self._roster[_HIGHEST] + 1):
            pid, generation, started = self._roster[_at(index, _PID) : _at(index, _STARTED) + 1].tolist()
            if started:
                rows.append(WorkerRow(index, pid, generation, self.state(index), started / 1000, self.counts(index)))
        return rows

    def totals(self) -> tuple[int, ...]:
        """The counters summed over all slots, the master's and those of departed workers included."""
        taken = [index for index in range(1, self._roster[_HIGHEST] + 1) if self._roster[_at(index, _STARTED)]]
        departed = self._roster[_DEPARTED : _DEPARTED + WIDTH].tolist()
        columns = zip(departed, *map(self.counts, [0, *taken]), strict=True)
        return tuple(sum(column) % _MODULO for column in columns)


class Scoreboard(Board):
    """The master's scoreboard, with room for `slots` workers. Raises StartError where there is no such memory."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        try:
            writing, self._reading_roster = create((_HEADER + (slots + 1) * _SLOT) * 8)
            roster = map_memory(writing, (_HEADER + (slots + 1) * _SLOT) * 8, writable=True)
            os.close(writing)  # the mapping above is the only one by which it can be written
            self.pages, self._reading_pages = create((slots + 1) * _PAGE)
            pages = map_memory(self.pages, (slots + 1) * _PAGE, writable=True)
        except OSError as error:
            raise StartError(f"cannot make the scoreboard: {error.strerror}") from None
        super().__init__(roster, pages)

    def enter_child(self) -> Board:
        """In a forked child: let go of everything that only the master may write, and map the rest for reading. The
        descriptor `pages` remains, for `Board.map_own_page`.
        """
        roster, pages = self._memories
        board = Board(map_memory(self._reading_roster, len(roster)), map_memory(self._reading_pages, len(pages)))
        for view in (self._roster, self._pages, self._beats):
            view.release()
        for memory in self._memories:
            memory.close()
        os.close(self._reading_roster)
        os.close(self._reading_pages)
        return board

    def free(self) -> int:
        """The first slot that is not taken. Raises BootError if there is none."""
        for index in range(1, self._slots + 1):
            if not self._roster[_at(index, _STARTED)]:
                return index
        raise BootError(f"all {self._slots} scoreboard slots are taken: too many workers are still draining")

    def occupy(self, index: int, pid: int, generation: int) -> None:
        """Take the slot. Before the fork, with pid 0, it is a reservation; call it again once the pid is known.

        Touches no word that the worker writes: it may be running by now.
        """
        roster = self._roster
        roster[_at(index, _PID)] = pid
        roster[_at(index, _GENERATION)] = generation
        roster[_at(index, _STARTED)] = time.time_ns() // 1_000_000
        roster[_at(index, _BORN)] = time.monotonic_ns() // 1_000_000
        roster[_HIGHEST] = max(roster[_HIGHEST], index)

    def order(self, index: int, order: Order) -> None:
        """Write the master's next order to the worker. The worker must be told to look."""
        where = _at(index, _ORDER)
        self._roster[where] = (self._roster[where] // 4 + 1) * 4 + order

    def hold(self, index: int, held: bool) -> None:
        """Note that SIGSTOP or the like holds the worker, or holds it no more."""
        self._roster[_at(index, _HELD)] = held

    def vacate(self, index: int) -> None:
        """Free the slot of a worker that has been reaped. Its counts are kept, save the GAUGES, which ended with it.
        The errnos of its lost log lines are kept too, if it has any.
        """
        for word, count in enumerate(self.counts(index)):
            if word not in GAUGES:
                self._roster[_DEPARTED + word] = (self._roster[_DEPARTED + word] + count) % _MODULO
        page, own = self.slot(index), self.slot(0)
        for word in (ACCESS_FAILURE, ERROR_FAILURE):
            own[word] = page[word] or own[word]
        for word in range(ERROR_FAILURE + 1):
            page[word] = 0
        for word in range(_SLOT):
            self._roster[_at(index, word)] = 0

    def stop(self) -> None:
        """Let all processes know that the server is about to stop."""
        self._roster[_STOPPING] = 1


def _at(index: int, word: int) -> int:
    """Where a word of slot `index` stands in the roster."""
    return _HEADER + index * _SLOT + word
