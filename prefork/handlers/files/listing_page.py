"""The page of a directory listing: plain HTML with its style inside, which works without scripts. Owns how it looks.

A name is only text here, whatever it holds: it is escaped, its control characters are made visible, and its direction
does not affect the text around it. Links are percent-encoded and relative, so that they also work behind a proxy that
cuts a prefix off. As a second defence, a Content-Security-Policy allows no script, and no style but ours.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from time import gmtime
from typing import NamedTuple
from urllib.parse import quote

PAGE_SIZE = 1000  # entries shown at once

_STYLE = Path(__file__).with_name("listing.css").read_text().strip()
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_POLICY = (
    ("Content-Security-Policy", f"default-src 'none'; img-src data:; style-src 'sha256-{_DIGEST}'; base-uri 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)

# Control characters, and those that change the direction of text: "abc\u202egnp.exe" looks like an image.
_UNSEEN = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = dict.fromkeys(_UNSEEN, "\N{REPLACEMENT CHARACTER}")
_COLUMNS = (("name", "Name", "asc"), ("size", "Size", "desc"), ("modified", "Modified (UTC)", "desc"))
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Entry(NamedTuple):
    """A file or a directory. `size` is in bytes, None for a directory; `modified` is Unix time; names are sorted by
    `key`.
    """

    name: bytes
    size: int | None
    modified: float | None
    key: list[str | int]


class Order(NamedTuple):
    """The order of entries; `by` is the key of a column: "name", "size" or "modified"."""

    by: str
    descending: bool


class View(NamedTuple):
    """One page of a listing: page `number` of `pages`, with all the `entries` in order, `page_size` of them on a page.

    `root` is the name that stands for the route's own directory. `below` are the path's segments below the route's
    path, as the client spelled them.
    """

    root: bytes
    below: list[bytes]
    entries: list[Entry]
    order: Order
    number: int
    pages: int
    complete: bool
    page_size: int = PAGE_SIZE

    @property
    def shown(self) -> list[Entry]:
        """The entries on this page."""
        return self.entries[(self.number - 1) * self.page_size : self.number * self.page_size]


def text(name: bytes) -> str:
    """A name as people can read it: decoded as UTF-8, with invisible characters made visible."""
    return name.decode("utf-8", "replace").translate(_VISIBLE)


def utc(seconds: float | None, between: str = " ", after: str = "") -> str | None:
    """Unix time as text, in UTC: "2026-11-28 12:00:00". `between` separates date and time; `after` is appended.

    The result is None where the time is unknown, or its year is not within 0 to 9999.
    """
    try:
        at = gmtime(seconds) if seconds is not None else None
    except (OverflowError, ValueError, OSError):
        return None
    if at is None or not 0 <= at.tm_year <= 9999:
        return None
    date = f"{at.tm_year:04}-{at.tm_mon:02}-{at.tm_mday:02}"
    return f"{date}{between}{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}{after}"


def size(count: int) -> str:
    """A size in bytes as short text: "812 B", "1.2 KiB", "34 MiB". From 1 KiB on, a number below 10 has one decimal,
    and any other has none.
    """
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, iter(_UNITS)
    while value >= 1023.5:
        value /= 1024
        next(units)
    return f"{value:.1f} {next(units)}" if value < 9.95 else f"{value:.0f} {next(units)}"


def page(view: View, rows: list[str]) -> bytes:
    """The document, in UTF-8; `rows` are those of the entries `view.shown`, each made by `row`."""
    return "\n".join(_document(view, rows)).encode()


def _document(view: View, rows: list[str]) -> Iterator[str]:
    here = text(view.below[-1] if view.below else view.root)
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield '<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(here)} - files</title>"
    yield f'<link rel="icon" href="{_FAVICON}">'
    yield f"<style>{_STYLE}</style>"
    yield _SPRITE
    yield "<main>"
    yield "<header>"
    if view.below:
        yield from _crumbs(view)
    yield f"<h1><bdi>{escape(here)}</bdi></h1>"
    yield f"<p>{_summary(view)}</p>"
    yield "</header>"
    yield "<table>"
    yield "<caption>Folders and files; the links in the head of the table sort them</caption>"
    yield f"<thead><tr>{''.join(_heads(view.order))}</tr></thead>"
    yield "<tbody>"
    if view.below:
        yield _row("up", "../", "Parent folder", "", "")
    yield from rows
    yield "</tbody>"
    yield "</table>"
    if not view.complete:
        yield '<p class="note">This folder holds more than a listing takes; the rest is not shown.</p>'
    if view.pages > 1:
        yield from _pages(view)
    yield "</main>"
    yield "</html>\n"


def _crumbs(view: View) -> Iterator[str]:
    """The links to the directories above. Empty segments (as in "//") count as steps of a relative link, but have no
    text to show.
    """
    segments = [view.root, *view.below]
    yield '<nav aria-label="Path"><ol>'
    for above, segment in zip(range(len(segments) - 1, 0, -1), segments[:-1], strict=True):
        if segment:
            yield f'<li><a href="{"../" * above}"><bdi>{escape(text(segment))}</bdi></a></li>'
    yield "</ol></nav>"


def _summary(view: View) -> str:
    folders = sum(entry.size is None for entry in view.entries)
    files = len(view.entries) - folders
    parts = [_counted(folders, "folder")] * bool(folders) + [_counted(files, "file")] * bool(files)
    if files:
        parts.append(size(sum(entry.size or 0 for entry in view.entries)))
    return " · ".join(parts) or "Empty"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _heads(order: Order) -> Iterator[str]:
    """The column heads, each a link to another order: by size and time, the largest and the newest are first. A second
    click turns the order around.
    """
    for by, label, first in _COLUMNS:
        state, direction = "", first
        if order.by == by:
            state = f' aria-sort="{"descending" if order.descending else "ascending"}"'
            direction = "asc" if order.descending else "desc"
        yield f'<th scope="col"{state}><a href="?sort={by}&amp;order={direction}">{label}</a></th>'


def row(entry: Entry) -> str:
    """The row of the table that shows an entry, as HTML."""
    href, name = quote(entry.name, safe=""), f"<bdi>{escape(text(entry.name))}</bdi>"
    shown = "" if entry.size is None else f'<span title="{entry.size:,} bytes">{size(entry.size)}</span>'
    at = utc(entry.modified)
    modified = f'<time datetime="{at}Z" title="{at} UTC">{at[:16]}</time>' if at else ""
    if entry.size is None:
        return _row("folder", href + "/", name, shown, modified)
    return _row(_icon(entry.name), href, name, shown, modified)


def _row(icon: str, href: str, name: str, shown: str, modified: str) -> str:
    picture = f'<svg class="{icon}" aria-hidden="true"><use href="#{icon}"/></svg>'
    return (
        f'<tr><th scope="row"><a href="{href}">{picture}<span>{name}</span></a></th>'
        f"<td>{shown}</td><td>{modified}</td></tr>"
    )


def _pages(view: View) -> Iterator[str]:
    order = f"sort={view.order.by}&amp;order={'desc' if view.order.descending else 'asc'}"
    yield '<nav class="pages" aria-label="Pages">'
    if view.number > 1:
        yield f'<a rel="prev" href="?{order}&amp;page={view.number - 1}">Previous</a>'
    yield f"<span>Page {view.number} of {view.pages}</span>"
    if view.number < view.pages:
        yield f'<a rel="next" href="?{order}&amp;page={view.number + 1}">Next</a>'
    yield "</nav>"


_EXTENSIONS = {
    "image": "png jpg jpeg gif webp avif svg ico bmp tif tiff heic jxl psd",
    "media": "mp3 ogg opus flac wav m4a aac mp4 webm mkv mov avi m4v ogv",
    "archive": "zip gz tgz bz2 xz zst br tar 7z rar whl jar deb rpm iso",
    "text": "txt md rst html htm css js mjs ts json xml yaml yml toml ini cfg csv log py c h cpp rs go sh sql pdf",
}
_ICONS = {extension: icon for icon, extensions in _EXTENSIONS.items() for extension in extensions.split()}


def _icon(name: bytes) -> str:
    _, dot, extension = name.rpartition(b".")
    return _ICONS.get(extension.decode("latin-1").lower(), "file") if dot else "file"


# Icons of 24 x 24 units, drawn with a line 1.75 units wide: see listing.css.
_SHEET = "M6 3h8l5 5v12a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1zM14 3v5h5"
_SHAPES = {
    "folder": "M3 6a1 1 0 0 1 1-1h5l2 2.5h9a1 1 0 0 1 1 1V18a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1z",
    "up": "M5 12l7-7 7 7M12 5v15",
    "file": _SHEET,
    "text": _SHEET + "M8.5 12.5h7M8.5 16.5h5",
    "image": "M4 4h16v16H4zM4 16l5-5 5 5 3-3 3 3M15.5 8.5h.01",
    "media": "M4 4h16v16H4zM10 8.5v7l6-3.5z",
    "archive": "M4 4h16v4H4zM5.5 8v12h13V8M10 12h4",
}
_SYMBOLS = "".join(
    f'<symbol id="{name}" viewBox="0 0 24 24"><path d="{shape}"/></symbol>' for name, shape in _SHAPES.items()
)
_SPRITE = f'<svg class="shapes" aria-hidden="true">{_SYMBOLS}</svg>'
_FAVICON = "data:image/svg+xml," + quote(
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="#e0a526" d="{_SHAPES["folder"]}"/></svg>'
)
