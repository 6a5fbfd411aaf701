"""Static files: the file below a root that a path names, with its type, validators and freshness.

Keeps nothing between requests: neither descriptors nor contents. How a path is kept inside the root is `tree`'s affair.
"""

from __future__ import annotations

import calendar
import email.utils
import errno
import functools
import logging
import mimetypes
import os
import re
import time
import urllib.parse

from prefork.handlers import tree
from prefork.handlers.listing import Listing
from prefork.http.message import Fields, FileSegment, Request, Response, plain

log = logging.getLogger("prefork")

SMALL = 64 * 1024  # bytes; up to here a file is read and leaves in one send with the head, beyond it by sendfile

# A component that begins with a dot (.git, .env), save .well-known (RFC 8615), and NUL, which no path can hold.
# `^` matters: a route `/static` that also takes `/static../x` leaves `../x`.
_HIDDEN = re.compile(r"(?:^|/)\.(?!well-known(?:/|\Z))|\0")

# What a client can bring about by the name it asks for: there is no such file. EINVAL, EILSEQ: a file system that
# refuses the name; ENXIO, ENODEV: a socket or device that came to stand there at that very moment.
_ABSENT = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
        errno.ENXIO,
        errno.ENODEV,
    )
)
_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM))
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE))

_ALLOW = ("Allow", "GET, HEAD")

_PLAIN = "!$&'()*+,;=:@"  # besides letters, digits and -._~: what a path segment holds unencoded (RFC 3986 §3.3)

# What the standard library lacks, calls by an old name in some versions, or takes for a coding of the file before it: a
# .tar.gz is what the client asked for and is to get as it is, so it is a type here and never a Content-Encoding.
# XML is application/xml, since a charset on text/xml would overrule the document's own (RFC 7303 §3).
_MORE_TYPES = {
    ".atom": "application/atom+xml",
    ".avif": "image/avif",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonld": "application/ld+json",
    ".jxl": "image/jxl",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".opus": "audio/ogg",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".rss": "application/rss+xml",
    ".svg": "image/svg+xml",
    ".svgz": "application/gzip",
    ".tgz": "application/gzip",
    ".ttf": "font/ttf",
    ".vtt": "text/vtt",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".xml": "application/xml",
    ".xsl": "application/xml",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}


def _content_types() -> dict[bytes, str]:
    """Content-Type by extension (lower case, no dot), the same on every machine: /etc/mime.types is not asked."""
    strict = mimetypes.MimeTypes(filenames=()).types_map[True]
    return {
        extension[1:].encode(): f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        for extension, kind in {**strict, **_MORE_TYPES}.items()
    }


_CONTENT_TYPES = _content_types()


class Files:
    """The handler of a `files` route: GET and HEAD of what lies below the directory `root`.

    `index` is the file that stands for a directory, "" for none; `max_age`, in seconds, becomes Cache-Control; `mount`
    is the route's path without its final slash, "" for "/". Where `listing` is set, a directory without an index is
    listed. A root that is missing later on is 404 until it is back.
    """

    __slots__ = ("_cache_control", "_index", "_listing", "_mount", "_root")

    def __init__(self, root: str, index: str, max_age: int | None, mount: str, listing: bool = False) -> None:
        # Absolute, as an application may chdir; not by abspath, which resolves `current/..` without asking the symlink.
        self._root = os.fsencode(os.path.join(os.getcwd(), root))
        self._index = os.fsencode(index).split(b"/")
        self._mount = len(mount)
        self._listing = Listing(self._root, mount, _HIDDEN.search) if listing else None
        self._cache_control: Fields = () if max_age is None else (("Cache-Control", f"max-age={max_age}"),)

    async def __call__(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(204, (_ALLOW,)) if request.method == "OPTIONS" else plain(405, _ALLOW)
        path = request.path[self._mount :]
        # Asked of the path alone, not of what symlinks lead to: Kubernetes mounts `index.html -> ..data/index.html`.
        if _HIDDEN.search(path):
            return plain(404)
        names = [name for name in path.encode("latin-1").split(b"/") if name]
        slash = path.endswith("/")
        if slash:  # without an index it is 404, not nginx's 403: no name that ends so tells which directories exist
            directory, names = names, names + self._index
        try:
            file, status = tree.open_file(self._root, names)
        except OSError as error:
            if slash and self._listing is not None and error.errno in _ABSENT:
                return await self._list(request, self._listing, directory)
            if isinstance(error, IsADirectoryError):
                return plain(404) if slash else _redirect(request)
            return _refuse(request, error)
        return self._respond(request, names[-1], file, status)

    async def _list(self, request: Request, listing: Listing, names: list[bytes]) -> Response:
        try:
            return await listing.answer(request, names)
        except OSError as error:
            return _refuse(request, error)

    def _respond(self, request: Request, name: bytes, file: int, status: os.stat_result) -> Response:
        """The answer from an open file, which it closes, or hands over to the response's FileSegment."""
        keep = False
        try:
            etag, modified = _validators(status)
            validators = (("Last-Modified", modified), ("ETag", etag), *self._cache_control)
            if _unchanged(request, etag, modified):
                return Response(304, validators)
            kind = ("Content-Type", content_type(name))
            size = status.st_size
            if size > SMALL or (size and request.method == "HEAD"):  # for HEAD only the length counts: nothing is read
                keep = True
                return Response(200, (kind, *validators), FileSegment(file, 0, size, functools.partial(os.close, file)))
            content = _read(file, size)
            # Cut short since the fstat: this is neither the version that the validators name nor one to be cached.
            return Response(200, (kind, *validators) if len(content) == size else (kind,), content)
        except OSError as error:
            return _refuse(request, error)
        finally:
            if not keep:
                os.close(file)


def _read(file: int, size: int) -> bytes:
    """`size` bytes from the start of `file`, fewer only where it ends before; one system call as a rule."""
    content = os.read(file, size)
    while len(content) < size and (more := os.read(file, size - len(content))):
        content += more
    return content


def content_type(name: bytes) -> str:
    _, dot, extension = name.rpartition(b".")
    return _CONTENT_TYPES.get(extension.lower(), "application/octet-stream") if dot else "application/octet-stream"


def _validators(status: os.stat_result) -> tuple[str, str]:
    """ETag and Last-Modified.

    A strong ETag changes whenever the content does (RFC 9110 §8.8.3), so the inode is in it: image builders set every
    mtime alike, and a new file of the same size would pass for the old one. The price is that hosts which share a name
    do not share tags; a 304 missed costs bytes, a wrong one a stale page.
    """
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
    # Never later than the Date of this answer (RFC 9110 §8.8.2.1), nor so early that no HTTP-date could tell it.
    return etag, _http_date(max(0, int(min(status.st_mtime, time.time()))))


@functools.lru_cache(maxsize=4096)
def _http_date(seconds: int) -> str:
    return email.utils.formatdate(seconds, usegmt=True)


def _unchanged(request: Request, etag: str, modified: str) -> bool:
    """Whether 304 is the answer (RFC 9110 §13.2.2): If-None-Match decides alone where there is one."""
    headers = request.headers
    if "if-none-match" in headers:
        known = headers.get("if-none-match")
        # Opaque tags hold no quotes, so the quoted tag is in a list only as a member; a `W/` before it is a weak match.
        return known == "*" or etag in known
    since = headers.get("if-modified-since")
    if not since:
        return False
    return since == modified or _not_later(modified, since)


def _not_later(modified: str, since: str) -> bool:
    """Whether the HTTP-date `modified` is not later than `since`; False where that is none (RFC 9110 §13.1.3)."""
    try:
        date = email.utils.parsedate_to_datetime(since)  # reads all three forms of RFC 9110 §5.6.7
    except (ValueError, OverflowError):
        return False
    if date.utcoffset():  # mail has time zones, HTTP has not; no zone at all is the asctime form, in GMT as well
        return False
    known = email.utils.parsedate_to_datetime(modified)
    return calendar.timegm(known.timetuple()) <= calendar.timegm(date.timetuple())


def _redirect(request: Request) -> Response:
    """301 to the same path with a slash at its end.

    Built anew from the decoded path, encoded, with exactly one slash in front: to a client `//evil/` and `/\\evil/` are
    another host.
    """
    names = [name for name in request.path.encode("latin-1").split(b"/") if name]
    location = "".join(f"/{urllib.parse.quote(name, safe=_PLAIN)}" for name in names) + "/"
    if request.query:
        location += f"?{request.query}"
    return plain(301, ("Location", location))


def _refuse(request: Request, error: OSError) -> Response:
    """The answer to a file that could not be opened or read."""
    if error.errno in _ABSENT:
        return plain(404)
    if error.errno in _FORBIDDEN:
        return plain(403)
    if error.errno in _EXHAUSTED:
        return plain(503)
    log.error("the file for %s %s cannot be read: %s", request.method, request.target, error)
    return plain(500)
