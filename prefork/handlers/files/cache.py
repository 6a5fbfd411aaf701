"""The file cache: what a worker keeps of the files it has served. Owns its bounds, and the look whether it is true.

An entry is asked of the file system again once `valid` seconds have passed, when somebody wants it, by one stat a file:
device, inode, size and both times have to be what they were. That look goes by name and follows symlinks, which is
safe, as nothing is opened by it: what is given is what has been read before, of a file that was in the tree.

A time is as coarse as the kernel's tick, so that a file may change twice without its times telling. So what was read
within SETTLED of its last change is not believed later, but read again.

A path is kept in one spelling, and counts as what is kept under it does: who asks makes it up, up to `max_head` long.

What somebody has asked for within IDLE stays, and nobody else's file is kept in its place. So of files that are more
than the bounds hold, asked for in turn, a part is kept all the time; were the oldest put out, each would be just before
it is asked for again (tests/bench/files.py: 10,000 files that are 0.1 % more than there is room for, 52 us a request
that way and 11 this way).
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Hashable
from math import inf

from prefork.handlers.files.representation import Representation
from prefork.http.message import Request
from prefork.http.negotiation import IDENTITY, best
from prefork.http.paths import LONGEST_REMEMBERED
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, Task
from prefork.settings.schema_files import FileCache as Bounds
from prefork.shared.counters import FILE_EVICTIONS, FILE_HITS, FILE_MISSES

SETTLED = 2.0  # seconds; FAT tells times as coarsely as that
OVERHEAD = 2560  # bytes, about, of a representation besides its content, and its entry's paths: its heads, above all
MOST_ABSENT = 1024  # names remembered that lead to nothing; all are forgotten when they are more
IDLE = 10.0  # seconds without a request, and `valid` more: then an entry may be put out, and is not held open
LOOKS = 4  # at entries, for one that may be put out

Key = tuple[Hashable, str]  # whose path, and the path
Signature = tuple[int, ...]


def sign(status: os.stat_result) -> Signature:
    """What is another once the file or its content is."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _look(path: bytes) -> Signature | None:
    """The signature of the regular file at `path`, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return sign(status) if stat.S_ISREG(status.st_mode) else None


class Entry:
    """What one name leads to: its representations by coding, IDENTITY among them.

    `probes` are the paths it depends on with what was found there, None being nothing. Once it is kept, `asked` is when
    somebody wanted it last, and `valid` until when it is believed. Whoever has one that is not `kept` retires it.
    """

    __slots__ = ("_codings", "_representations", "_settled", "asked", "cost", "descriptors", "kept", "probes", "valid")

    def __init__(self, representations: dict[str, Representation], probes: dict[bytes, Signature | None]) -> None:
        smallest = sorted(representations, key=lambda coding: representations[coding].size)
        self._codings = tuple(coding for coding in smallest if coding != IDENTITY)
        self._representations = representations
        newest = max(max(found[3:]) for found in probes.values() if found is not None)
        self._settled = time.time_ns() - newest > SETTLED * 1e9
        self.probes = probes
        contents = [one.content or b"" for one in representations.values()]
        self.cost = sum(map(len, probes)) + sum(OVERHEAD + len(content) for content in contents)
        self.descriptors = sum(one.file is not None for one in representations.values())
        self.kept = False
        self.asked = self.valid = 0.0

    @property
    def torn(self) -> bool:
        return any(one.torn for one in self._representations.values())

    def choose(self, request: Request) -> Representation:
        """The representation that the client likes best, of equal ones the smallest."""
        if not self._codings:
            return self._representations[IDENTITY]
        coding = best(request.headers.get("accept-encoding"), self._codings)
        return self._representations[coding or IDENTITY]  # rather what the client does not want than nothing

    def is_true(self) -> bool:
        if not self._settled:
            return False
        return all(_look(path) == found for path, found in self.probes.items())

    def retire(self) -> None:
        for representation in self._representations.values():
            representation.retire()


class FileCache:
    """One for all routes of a worker; counts on `board`, the worker's scoreboard slot.

    The entries are within `bounds`, by what they are taken to cost; names that lead to nothing within MOST_ABSENT and
    LONGEST_REMEMBERED.
    """

    def __init__(self, bounds: Bounds, board: memoryview) -> None:
        self._bounds = bounds
        self._board = board
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._absent: dict[Key, float] = {}
        self._cost = 0
        self._descriptors = 0
        self._sweeper: Task | None = None

    def find(self, key: Key, now: float, certain: bool) -> Entry | None:
        """What is kept under `key`, and is true; None where nothing is. To be `certain`, a file that is held open is
        looked at now: its content is read later, and may be another's than its tag says.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        believed = now < entry.valid and not (certain and entry.descriptors)
        if believed or self._renew(key, entry, now):
            entry.asked = now
            self._board[FILE_HITS] += 1
            return entry
        return None

    def _renew(self, key: Key, entry: Entry, now: float) -> bool:
        if entry.is_true():
            entry.valid = self._until(now)
            return True
        self._drop(key)
        return False

    def keep(self, key: Key, entry: Entry, now: float) -> None:
        """Keep `entry`, which is true now, if there is room for it within the bounds, or some can be made."""
        bounds, length = self._bounds, len(key[1])
        self._board[FILE_MISSES] += 1
        entry.cost += length
        if entry.torn or length > LONGEST_REMEMBERED or not bounds.entries:
            return
        if entry.cost > bounds.memory or entry.descriptors > bounds.open_files:
            return
        if not self._make_room(entry, now):
            return
        self._entries[key] = entry
        self._cost += entry.cost
        self._descriptors += entry.descriptors
        entry.asked, entry.valid = now, self._until(now)
        entry.kept = True
        if entry.descriptors and self._sweeper is not None:
            self._sweeper.wake()

    def _until(self, now: float) -> float:
        """How long what is true now is taken to be, at most `valid` seconds.

        To a multiple of them: so a file is looked at when its head needs another Date, and not at another time as well.
        """
        period = self._bounds.valid
        return (now // period + 1.0) * period if period else 0.0

    def _make_room(self, entry: Entry, now: float) -> bool:
        """Put out what is idle until `entry` has its place; False where little of what was looked at is."""
        bounds, entries = self._bounds, self._entries
        looks = LOOKS
        while (
            self._cost + entry.cost > bounds.memory
            or self._descriptors + entry.descriptors > bounds.open_files
            or len(entries) >= bounds.entries
        ):
            key = next(iter(entries))
            if self._is_idle(entries[key], now):
                self._drop(key)
                self._board[FILE_EVICTIONS] += 1
            elif looks:
                entries.move_to_end(key)  # another time others are looked at
                looks -= 1
            else:
                return False
        return True

    def _is_idle(self, entry: Entry, now: float) -> bool:
        return now - entry.asked > IDLE + self._bounds.valid  # within which its answer is repeated without asking here

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key)
        self._cost -= entry.cost
        self._descriptors -= entry.descriptors
        entry.retire()

    def miss(self, key: Key, now: float) -> None:
        """Remember for `valid` seconds that `key` leads to nothing."""
        if self._bounds.valid and len(key[1]) <= LONGEST_REMEMBERED:
            if len(self._absent) >= MOST_ABSENT:
                self._absent.clear()
            self._absent[key] = self._until(now)

    def is_absent(self, key: Key, now: float) -> bool:
        return self._absent.get(key, 0.0) > now

    def shed(self) -> bool:
        """Close all that is held open, as there are no more descriptors; False where nothing was."""
        return self._close(inf)

    def _close(self, now: float) -> bool:
        keys = [key for key, entry in self._entries.items() if entry.descriptors and self._is_idle(entry, now)]
        for key in keys:
            self._drop(key)
        return bool(keys)

    async def sweep(self, loop: Loop) -> None:
        """Close what is held open for nobody: a file that was deleted takes its room on the disk until then."""
        self._sweeper = loop.current
        while True:
            while not self._descriptors:
                await PARKED
            await loop.sleep(IDLE)
            self._close(time.monotonic())
