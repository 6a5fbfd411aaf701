"""Directory listings: what is in a directory of a `files` route, in order, as a page or, where Accept asks, as JSON.

Shows what a request for it would be given, and nothing else: hidden names, special files, symlinks that lead out and
names that another route answers for are left out. Owns the reading and the order; the page itself is `listing_page`.

One listing of a worker is made at a time, and the others wait: a hundred large ones at once would leave a fraction of
each turn of the loop to everybody else, and hold a hundred times the memory. Those who wait for the same one share it;
who hangs up while waiting is forgotten.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, quote

import msgspec

from prefork.errors import Disconnected
from prefork.handlers.files.listing_page import CONTENT_POLICY, PAGE, Entry, Order, View, page, row, text, utc
from prefork.handlers.files.tree import Tree
from prefork.http.message import Request, RequestBody, Response
from prefork.http.negotiation import preference
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Lock
from prefork.runtime.task import PAUSE, Task

MOST = 10_000  # entries of one directory that are looked at, as Caddy has it; to sort them takes 15 ms at a stretch
SLICE = 100  # entries looked at before others have a turn: 1 ms
LINK = 10  # entries that are looked at as fast as one symlink: 0.03 ms, and 0.1 where it is to stay inside
SHARED = 1.0  # seconds, from its beginning, for which a reading serves those who wait for that directory
LONGEST_QUERY = 256  # characters; what is longer asks for nothing that there is
T = TypeVar("T")

_DIGITS = re.compile(r"([0-9]+)")
_NUMBER = re.compile(r"[0-9]{1,6}")
_HTML, _JSON = "text/html", "application/json"


class Form(NamedTuple):
    """As what a directory is asked for: all that makes one answer differ from another. JSON has one page, of all."""

    json: bool
    order: Order
    number: int


class Reading(NamedTuple):
    """What there is to show of a directory, in any order, and whether that is all. `names` lead to it in `tree`;
    `answers` are what has been made of it.
    """

    tree: Tree
    names: list[bytes]
    until: float
    entries: list[Entry]
    complete: bool
    answers: dict[Form, Response]


class Queue:
    """The requests for listings of one worker, one of which is answered; `last` is what was read for the one before."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._turns = Lock(loop)
        self.last: Reading | None = None

    async def enter(self, request: Request) -> None:
        """Wait for the turn, which is to be left. Raises Disconnected where the client hangs up before that."""
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
    """The answers for the directories of `tree`. `is_hidden` tells of a path below it whether it is never served;
    `mount` is the route's path without its final slash, `queue` the worker's.
    """

    def __init__(self, tree: Tree, mount: str, is_hidden: Callable[[str], object], queue: Queue) -> None:
        self._queue = queue
        self._tree = tree
        self._mount = mount
        self._name = mount.strip("/").encode("latin-1") or b"Home"
        self._is_hidden = is_hidden

    async def answer(self, request: Request, names: list[bytes]) -> Response:
        """The listing of the directory that `names` lead to; the request's path ends with a slash.

        Raises OSError as Tree.open_directory does, Disconnected where the client did not wait for its turn.
        """
        await self._queue.enter(request)
        try:
            reading = await self._reading(names)
            form = _asked(request, _pages(reading.entries))
            shared = form.json or request.line.decoded is request.path  # else links climb by the slashes that came
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
            last = self._queue.last = Reading(self._tree, names, now + SHARED, *await self._read(names), {})
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
        return View(self._name, segments, entries, form.order, form.number, _pages(entries), complete)

    async def _read(self, names: list[bytes]) -> tuple[list[Entry], bool]:
        """What there is to show, in no order, and whether that is all."""
        entries: list[Entry] = []
        directory, work = self._tree.open_directory(names), 0
        try:
            with os.scandir(directory) as found:
                for count, item in enumerate(found, 1):
                    if count > MOST:
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
        """None for what is not to be shown, or is gone already."""
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
        """What a symlink leads to, as a request would get it. Raises OSError where that is nothing."""
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
    """Directories first, whatever the order; what is alike, by name: "file 9" before "file 10"."""
    entries.sort(key=lambda entry: (entry.key, entry.name), reverse=order.by == "name" and order.descending)
    if order.by == "size":
        entries.sort(key=lambda entry: entry.size or 0, reverse=order.descending)
    elif order.by == "modified":
        entries.sort(key=lambda entry: entry.modified or 0, reverse=order.descending)
    entries.sort(key=lambda entry: entry.size is not None)


def _asked(request: Request, pages: int) -> Form:
    """The form that Accept and the query ask for; what makes no sense says nothing."""
    query = request.query
    values = parse_qs(query) if len(query) <= LONGEST_QUERY else {}
    by, direction, number = (values.get(name, [""])[0] for name in ("sort", "order", "page"))
    order = Order(by if by in ("name", "size", "modified") else "name", direction == "desc")
    if _wants_json(request.headers.get("accept")):
        return Form(True, order, 1)
    return Form(False, order, min(pages, max(1, int(number))) if _NUMBER.fullmatch(number) else 1)


def _pages(entries: list[Entry]) -> int:
    return max(1, -(-len(entries) // PAGE))


async def _each(make: Callable[[Entry], T], entries: list[Entry]) -> list[T]:
    """What `make` makes of each entry, in slices."""
    made: list[T] = []
    for start in range(0, len(entries), SLICE):
        if start:
            await PAUSE
        made += map(make, entries[start : start + SLICE])
    return made


def _item(entry: Entry) -> dict[str, object]:
    """`url` is relative to the directory."""
    return {
        "name": text(entry.name),
        "url": quote(entry.name, safe="") + ("/" if entry.size is None else ""),
        "type": "directory" if entry.size is None else "file",
        "size": entry.size,
        "modified": utc(entry.modified, "T", "Z"),
    }


def _json(path: str, items: list[dict[str, object]], complete: bool) -> bytes:
    """All entries, in order; `complete` is false where MOST has cut it short."""
    return msgspec.json.encode({"path": text(path.encode("latin-1")), "complete": complete, "entries": items}) + b"\n"


def _wants_json(accept: str) -> bool:
    """Whether Accept prefers JSON: by weight and then, as for "application/json, */*", by how precisely it says so."""
    return preference(accept, _JSON) > preference(accept, _HTML)
