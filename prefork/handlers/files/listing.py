"""Directory listings: the entries of a directory of a `files` route, in order, as a page or, if Accept asks, as JSON.

A listing shows only entries that a request for them would get. Names that are hidden, special files, symlinks that are
not followed, and names for which another route answers are left out. Owns the reading of directories and the order of
entries; `listing_page` makes the page.

A worker makes one listing at a time, and other requests for listings wait. A hundred large ones at once would hold a
hundred times the memory, and leave a fraction of each turn of the loop to other requests. Requests that wait for the
same directory share one reading. A request is dropped if its client hangs up while it waits.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, quote

import msgspec

from prefork.errors import Disconnected
from prefork.handlers.files.listing_page import CONTENT_POLICY, PAGE_SIZE, Entry, Order, View, page, row, text, utc
from prefork.handlers.files.tree import Tree
from prefork.http.message import Request, RequestBody, Response
from prefork.http.negotiation import preference
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Lock
from prefork.runtime.task import PAUSE, Task

MOST_ENTRIES = 10_000  # entries of one directory that are read, as in Caddy; to sort them takes 15 ms without a pause
SLICE = 100  # entries that are read before other tasks may run: 1 ms
LINK = 10  # a symlink counts as this many entries: it takes 0.03 ms, and 0.1 ms where it must stay inside the root
READING_LIFETIME = 1.0  # seconds, from its beginning, for which a reading serves all requests that wait for it
LONGEST_QUERY = 256  # characters; a longer query is ignored
T = TypeVar("T")

_DIGITS = re.compile(r"([0-9]+)")
_NUMBER = re.compile(r"[0-9]{1,6}")
_HTML, _JSON = "text/html", "application/json"


class Form(NamedTuple):
    """The form in which a directory is asked for: all that makes two answers from one reading differ. JSON has a single
    page, with all entries.
    """

    json: bool
    order: Order
    number: int


class Reading(NamedTuple):
    """The `entries` to show of the directory that `names` lead to in `tree`, in any order.

    They are `complete` unless there were more than `most_entries`. The reading serves requests `until` then (monotonic
    seconds). `answers` are the responses that have been made of it.
    """

    tree: Tree
    names: list[bytes]
    until: float
    entries: list[Entry]
    complete: bool
    answers: dict[Form, Response]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of listings: `most_entries` of one directory are read, `page_size` of them are shown at once, and a
    reading serves the requests that wait for `reading_lifetime` seconds.
    """

    most_entries: int = MOST_ENTRIES
    page_size: int = PAGE_SIZE
    reading_lifetime: float = READING_LIFETIME


BOUNDS = Bounds()


class Queue:
    """The requests for listings of one worker, of which one at a time is answered, within `bounds`. `last` is the last
    reading, kept while requests wait.
    """

    def __init__(self, loop: Loop, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self._loop = loop
        self._turns = Lock(loop)
        self.last: Reading | None = None

    async def enter(self, request: Request) -> None:
        """Wait until no other listing is made; the caller must call `leave` after its own.

        Raises Disconnected if the client hangs up while it waits. It does not notice that before the request body has
        been read.
        """
        if not self._turns.locked or not request.body.ended:
            await self._turns.acquire()
            return
        watcher = self._loop.spawn(_watch(request.body, self._loop.current), "watching for the end of a waiting client")
        try:
            await self._turns.acquire()
        finally:
            watcher.cancel()

    def leave(self) -> None:
        self._turns.release()
        if not self._turns.locked:
            self.last = None


async def _watch(body: RequestBody, task: Task) -> None:
    await body.hangup()
    task.throw(Disconnected("the client has hung up"))


class Listing:
    """The listings of the directories of `tree`.

    `is_hidden` tells whether a path below it is never served. `mount` is the route's path without its final slash, and
    `queue` is shared by all routes of the worker.
    """

    def __init__(self, tree: Tree, mount: str, is_hidden: Callable[[str], object], queue: Queue) -> None:
        self._queue = queue
        self._bounds = queue.bounds
        self._tree = tree
        self._mount = mount
        self._name = mount.strip("/").encode("latin-1") or b"Home"
        self._is_hidden = is_hidden

    async def answer(self, request: Request, names: list[bytes]) -> Response:
        """The listing of the directory that `names` lead to. The request's path must end with a slash.

        Raises OSError as Tree.open_directory does, Disconnected as Queue.enter does.
        """
        await self._queue.enter(request)
        try:
            reading = await self._reading(names)
            form = _asked(request, self._pages(reading.entries))
            shared = form.json or request.line.decoded is request.path  # else "//" in the path changes relative links
            response = reading.answers.get(form) if shared else None
            if response is None:
                response = await self._answer(request, reading, form)
                if shared:
                    reading.answers[form] = response
            return response
        finally:
            self._queue.leave()

    async def _reading(self, names: list[bytes]) -> Reading:
        last, now = self._queue.last, monotonic()
        if last is None or last.tree is not self._tree or last.names != names or last.until <= now:
            until = now + self._bounds.reading_lifetime
            last = self._queue.last = Reading(self._tree, names, until, *await self._read(names), {})
        return last

    async def _answer(self, request: Request, reading: Reading, form: Form) -> Response:
        entries, complete = reading.entries, reading.complete
        _sort(entries, form.order)
        if form.json:
            kind, body = _JSON, _json(request.path, await _each(_item, entries), complete)
        else:
            view = self._view(request, reading, form)
            kind, body = f"{_HTML}; charset=utf-8", page(view, await _each(row, view.shown))
        return Response(200, (("Content-Type", kind), ("Vary", "Accept"), *CONTENT_POLICY), body)

    def _view(self, request: Request, reading: Reading, form: Form) -> View:
        segments = request.line.below(self._mount).encode("latin-1").split(b"/")[1:-1]
        entries, complete = reading.entries, reading.complete
        pages, size = self._pages(entries), self._bounds.page_size
        return View(self._name, segments, entries, form.order, form.number, pages, complete, size)

    def _pages(self, entries: list[Entry]) -> int:
        return max(1, -(-len(entries) // self._bounds.page_size))

    async def _read(self, names: list[bytes]) -> tuple[list[Entry], bool]:
        """The entries to show, in no order, and whether these are all."""
        entries: list[Entry] = []
        directory, work, most = self._tree.open_directory(names), 0, self._bounds.most_entries
        try:
            with os.scandir(directory) as found:
                for count, item in enumerate(found, 1):
                    if count > most:
                        return entries, False
                    entry = self._entry(names, item)
                    if entry is not None:
                        entries.append(entry)
                    work += LINK if item.is_symlink() else 1
                    if work >= SLICE:
                        await PAUSE
                        work = 0
        finally:
            os.close(directory)
        return entries, True

    def _entry(self, names: list[bytes], item: os.DirEntry[str]) -> Entry | None:
        """The entry for a directory item; None if it must not be shown, or is gone already."""
        name = os.fsencode(item.name)
        if self._is_hidden("/" + name.decode("latin-1")) or self._tree.is_closed([*names, name]):
            return None
        try:
            if item.is_symlink():
                return self._followed(names, name)
            status = item.stat(follow_symlinks=False)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return _entry(name, None, status.st_mtime)
        return _entry(name, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def _followed(self, names: list[bytes], name: bytes) -> Entry | None:
        """The entry for a symlink: with the size and time of the file that it leads to, or as a directory without a
        time. Raises OSError where a request for it would get neither.
        """
        try:
            file, status = self._tree.open_file([*names, name])
        except IsADirectoryError:
            return _entry(name, None, None)
        os.close(file)
        return _entry(name, status.st_size, status.st_mtime)


def _entry(name: bytes, size: int | None, modified: float | None) -> Entry:
    pieces: list[str | int] = list(_DIGITS.split(text(name).casefold()))
    pieces[1::2] = map(int, pieces[1::2])
    return Entry(name, size, modified, pieces)


def _sort(entries: list[Entry], order: Order) -> None:
    """Sort entries. Directories are first in any order; equal entries are sorted by name, "file 9" before "file 10"."""
    entries.sort(key=lambda entry: (entry.key, entry.name), reverse=order.by == "name" and order.descending)
    if order.by == "size":
        entries.sort(key=lambda entry: entry.size or 0, reverse=order.descending)
    elif order.by == "modified":
        entries.sort(key=lambda entry: entry.modified or 0, reverse=order.descending)
    entries.sort(key=lambda entry: entry.size is not None)


def _asked(request: Request, pages: int) -> Form:
    """The form that Accept and the query ask for. Values that make no sense are ignored."""
    query = request.query
    values = parse_qs(query) if len(query) <= LONGEST_QUERY else {}
    by, direction, number = (values.get(name, [""])[0] for name in ("sort", "order", "page"))
    order = Order(by if by in ("name", "size", "modified") else "name", direction == "desc")
    if _wants_json(request.headers.get("accept")):
        return Form(True, order, 1)
    return Form(False, order, min(pages, max(1, int(number))) if _NUMBER.fullmatch(number) else 1)


async def _each(make: Callable[[Entry], T], entries: list[Entry]) -> list[T]:
    """`make(entry)` for each entry, in slices, so that other tasks may run between."""
    made: list[T] = []
    for start in range(0, len(entries), SLICE):
        if start:
            await PAUSE
        made += map(make, entries[start : start + SLICE])
    return made


def _item(entry: Entry) -> dict[str, object]:
    """The JSON object for an entry; `url` is relative to the directory."""
    return {
        "name": text(entry.name),
        "url": quote(entry.name, safe="") + ("/" if entry.size is None else ""),
        "type": "directory" if entry.size is None else "file",
        "size": entry.size,
        "modified": utc(entry.modified, "T", "Z"),
    }


def _json(path: str, items: list[dict[str, object]], complete: bool) -> bytes:
    """The JSON document: all entries, in order. `complete` is false where the directory has
    more."""
    return msgspec.json.encode({"path": text(path.encode("latin-1")), "complete": complete, "entries": items}) + b"\n"


def _wants_json(accept: str) -> bool:
    """Whether Accept prefers JSON to HTML: the greater weight wins, and then the more specific range, as in
    "application/json, */*".
    """
    return preference(accept, _JSON) > preference(accept, _HTML)
