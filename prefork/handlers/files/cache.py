"""The file cache: what a worker keeps of the files it has served. Owns its bounds, and the check of its entries.

An entry is believed for `valid` seconds at most. The next request after that checks it by one stat for each path that
the entry depends on: device, inode, size and both times must be unchanged. A stat goes by name and follows symlinks;
that is safe, since it opens nothing, and the bytes that are sent come from a file that was in the tree.

File times are as coarse as the kernel's tick, so a file may change twice without a change of its times. So a file that
was read within SETTLED seconds of its last change is read again when its entry is due for the check.

A path is kept in one spelling, and its length counts as content does, as clients choose it. A path longer than
LONGEST_REMEMBERED is not kept.

An entry that was asked for within `idle` seconds is not dropped for another file. So if more files are asked for in
turn than the bounds hold, a part of them is always found. If the oldest entry were dropped instead, each would be
dropped just before it is asked for again (tests/bench/files.py: with 10,000 files, 0.1 % more than there is room for, a
request takes 52 us that way and 11 this way).
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Hashable
from math import inf

from prefork.bounded import remember
from prefork.handlers.files.representation import Representation
from prefork.http.message import Request
from prefork.http.negotiation import IDENTITY, best
from prefork.http.paths import LONGEST_REMEMBERED
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, Task
from prefork.settings.schema_files import FileCache as Bounds
from prefork.shared.counters import FILE_EVICTIONS, FILE_HITS, FILE_MISSES

SETTLED = 2.0  # seconds: the resolution of file times on FAT
OVERHEAD = 2560  # bytes, about, that a representation takes besides its content and paths: for its heads, above all
MOST_ABSENT = 1024  # names remembered that lead to nothing; all are forgotten to make room for one more
IDLE = 10.0  # seconds without a request, and `valid` more, after which an entry may be dropped, and its file closed
LOOKS = 4  # entries in use that are passed over to find one that may be dropped

Key = tuple[Hashable, str]  # the route's handler, and the path below its route
Signature = tuple[int, ...]


def sign(status: os.stat_result) -> Signature:
    """The signature of a file, which changes when another file takes its place, or its content changes."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _look(path: bytes) -> Signature | None:
    """The signature of the regular file at `path`, None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return sign(status) if stat.S_ISREG(status.st_mode) else None


class Entry:
    """The file that one name leads to: its representations by encoding, IDENTITY among them.

    `probes` maps each path that the entry depends on to the signature of the file that was found there, None if there
    was none. For an entry that is kept, `asked` is when it was last asked for, and `valid` until when it is believed
    (both monotonic seconds). A caller must `retire` an entry that is not `kept`.
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
        """The representation that the client prefers; of those that it likes equally, the smallest."""
        if not self._codings:
            return self._representations[IDENTITY]
        coding = best(request.headers.get("accept-encoding"), self._codings)
        return self._representations[coding or IDENTITY]  # the file unencoded, even if the client accepts nothing

    def is_true(self) -> bool:
        if not self._settled:
            return False
        return all(_look(path) == found for path, found in self.probes.items())

    def retire(self) -> None:
        for representation in self._representations.values():
            representation.retire()


class FileCache:
    """The cache for all routes of a worker. It counts hits, misses and evictions in `board`, the worker's slot of the
    scoreboard.

    `bounds` limit the number of `entries`, their `cost`, which is an estimate of their bytes, and the open files. Of
    names that lead to nothing (`absent`), MOST_ABSENT are kept, none longer than LONGEST_REMEMBERED. An entry that
    nobody has asked for in `idle` seconds, and `valid` more, may be dropped, and its file closed.
    """

    def __init__(self, bounds: Bounds, board: memoryview, *, idle: float = IDLE) -> None:
        self._bounds = bounds
        self._idle = idle
        self._board = board
        self.entries: OrderedDict[Key, Entry] = OrderedDict()
        self.absent: dict[Key, float] = {}
        self.cost = 0
        self._descriptors = 0
        self._sweeper: Task | None = None

    def find(self, key: Key, now: float, certain: bool) -> Entry | None:
        """The entry under `key`, if there is one that is believed or passes the check.

        With `certain`, a file that is held open is checked even if it is believed: its content will only be read as it
        is sent, and may have changed since its ETag was made.
        """
        entry = self.entries.get(key)
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
        """Keep `entry`, which has just been made, if there is room for it within the bounds, or room can be made."""
        bounds, length = self._bounds, len(key[1])
        self._board[FILE_MISSES] += 1
        entry.cost += length
        if entry.torn or length > LONGEST_REMEMBERED or not bounds.entries:
            return
        if entry.cost > bounds.memory or entry.descriptors > bounds.open_files:
            return
        if not self._make_room(entry, now):
            return
        self.entries[key] = entry
        self.cost += entry.cost
        self._descriptors += entry.descriptors
        entry.asked, entry.valid = now, self._until(now)
        entry.kept = True
        if entry.descriptors and self._sweeper is not None:
            self._sweeper.wake()

    def _until(self, now: float) -> float:
        """Until when a check at `now` is believed (monotonic seconds): for `valid` seconds at most.

        It is the next multiple of `valid`. Heads get a new Date at whole seconds of the same clock. So where `valid` is
        in whole seconds, the check falls together with a new Date, and repeated answers are interrupted only once.
        """
        period = self._bounds.valid
        return (now // period + 1.0) * period if period else 0.0

    def _make_room(self, entry: Entry, now: float) -> bool:
        """Drop idle entries until there is room for `entry`. False where LOOKS others were met before there was."""
        bounds, entries = self._bounds, self.entries
        looks = LOOKS
        while (
            self.cost + entry.cost > bounds.memory
            or self._descriptors + entry.descriptors > bounds.open_files
            or len(entries) >= bounds.entries
        ):
            key = next(iter(entries))
            if self._is_idle(entries[key], now):
                self._drop(key)
                self._board[FILE_EVICTIONS] += 1
            elif looks:
                entries.move_to_end(key)  # so that the next search meets other entries
                looks -= 1
            else:
                return False
        return True

    def _is_idle(self, entry: Entry, now: float) -> bool:
        return (
            now - entry.asked > self._idle + self._bounds.valid
        )  # an answer may be repeated for `valid` without `find`

    def _drop(self, key: Key) -> None:
        entry = self.entries.pop(key)
        self.cost -= entry.cost
        self._descriptors -= entry.descriptors
        entry.retire()

    def miss(self, key: Key, now: float) -> None:
        """Remember for `valid` seconds that `key` leads to nothing."""
        if self._bounds.valid and len(key[1]) <= LONGEST_REMEMBERED:
            remember(self.absent, key, self._until(now), MOST_ABSENT)

    def is_absent(self, key: Key, now: float) -> bool:
        return self.absent.get(key, 0.0) > now

    def shed(self) -> bool:
        """Drop all entries that hold files open, as there are no more descriptors. False where there were none."""
        return self._close(inf)

    def _close(self, now: float) -> bool:
        keys = [key for key, entry in self.entries.items() if entry.descriptors and self._is_idle(entry, now)]
        for key in keys:
            self._drop(key)
        return bool(keys)

    async def sweep(self, loop: Loop) -> None:
        """A task: drop idle entries that hold files open. A file that was deleted takes its space on the disk until its
        descriptor is closed.
        """
        self._sweeper = loop.current
        while True:
            while not self._descriptors:
                await PARKED
            await loop.sleep(self._idle)
            self._close(time.monotonic())
