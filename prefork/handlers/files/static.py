"""Static files: from a request's path to the file below a root, or to the answer where there is none.

Owns the way from a path to a file: the names to try, the index, hidden names. `tree` keeps a path inside the root,
`cache` keeps files between requests, and `representation` makes the answers from a file.
"""

from __future__ import annotations

import errno
import os
import re
import urllib.parse
from collections.abc import Callable
from fnmatch import translate
from time import monotonic

from prefork.handlers.files.cache import Entry, FileCache, Signature, sign
from prefork.handlers.files.listing import Listing, Queue
from prefork.handlers.files.representation import Representation
from prefork.handlers.files.tree import Tree
from prefork.http.media import Types
from prefork.http.message import Fields, Request, Response, plain
from prefork.http.negotiation import IDENTITY
from prefork.http.paths import merge
from prefork.logger import log
from prefork.net import file_paths
from prefork.settings import schema_files

# A component that begins with a dot (.git, .env), except .well-known (RFC 8615); and NUL, which no path can hold.
# `^` matters: if a route `/static` also took `/static../x`, the rest would be `../x`.
_HIDDEN = re.compile(r"(?:^|/)\.(?!well-known(?:/|\Z))|\0")
_NUL = re.compile(r"\0")

# Errors that a client can cause by the name it asks for: there is no such file. EINVAL, EILSEQ: the file system refuses
# the name; ENXIO, ENODEV: a socket or device has been put there at that very moment.
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
_SIBLINGS = (("zstd", b".zst"), ("br", b".br"), ("gzip", b".gz"))

_PLAIN = "!$&'()*+,;=:@"  # unencoded in a path segment, besides letters, digits and -._~ (RFC 3986 §3.3)


class Files:
    """The handler of a `files` route: GET and HEAD of the files below the directory `root`.

    `mount` is the route's path without its final slash, "" for "/". While the root is missing, each answer is a 404.
    `cache` and `queue` are shared by all routes of the worker. `is_closed` tells whether another route answers for a
    path below this route's: no index, no name to try, no compressed file and no listing leads to a file there.
    """

    def __init__(
        self,
        settings: schema_files.Files,
        root: str,
        mount: str,
        cache: FileCache,
        queue: Queue,
        is_closed: Callable[[str], bool] | None = None,
    ) -> None:
        # Absolute, as an application may chdir; not by abspath, which resolves `current/..` without asking the symlink.
        self._tree = Tree(os.fsencode(os.path.join(file_paths.absolute(os.curdir), root)), settings.symlinks, is_closed)
        self._cache = cache
        self._mount = len(mount)
        self._tries = [pattern.encode().decode("latin-1") for pattern in settings.try_]
        self._indexes = [os.fsencode(name).split(b"/") for name in settings.index]
        self._is_hidden = (_NUL if settings.hidden else _HIDDEN).search
        self._listing = Listing(self._tree, mount, self._is_hidden, queue) if settings.listing else None
        self._types = Types(settings.types)
        self._precompressed = settings.precompressed
        self._most_ranges = settings.max_ranges
        max_age = () if settings.max_age is None else (("*", f"max-age={settings.max_age}"),)
        self._rules = [_rule(*rule) for rule in (*settings.cache_control.items(), *max_age)]

    async def __call__(self, request: Request) -> Response:
        line = request.line
        if line.method not in ("GET", "HEAD"):
            return Response(204, (_ALLOW,)) if line.method == "OPTIONS" else plain(405, _ALLOW)
        now, below = monotonic(), line.path[self._mount :]
        # A client joins parts of one version only, so a file that is held open is checked: 2 us, for large files alone.
        certain = "range" in request.headers.fields
        # The path alone is searched, not the targets of symlinks: Kubernetes has `index.html -> ..data/index.html`. It
        # is searched before the cache is asked, which may hold the hidden file as a name to try. Most paths need no
        # search: to see that takes a tenth of its time.
        if ("/." in below or below[:1] == "." or "\0" in below) and self._is_hidden(below):
            return plain(404)
        entry = self._cache.find((self, below), now, certain) if self._tries[0] == "$uri" else None
        if entry is None:
            try:
                entry = self._find_with_room(below, now, certain)
            except IsADirectoryError:
                return _redirect(request)
            except OSError as error:
                if self._listing is not None and error.errno in _ABSENT and below.endswith("/"):
                    return await self._list(request, self._listing, _names(below))
                return _refuse(request, error)
        response = entry.choose(request).answer(request, entry.valid, self._most_ranges)
        if not entry.kept:
            entry.retire()
        return response

    def _find_with_room(self, below: str, now: float, certain: bool) -> Entry:
        """As `_find`. Where there are no more descriptors, files that the cache holds open are closed for it."""
        try:
            return self._find(below, now, certain)
        except OSError as error:
            if error.errno not in _EXHAUSTED or not self._cache.shed():
                raise
            return self._find(below, now, certain)

    def _find(self, below: str, now: float, certain: bool) -> Entry:
        """The entry for the path `below` the route's: that of the first name to try that leads to a file.

        Raises IsADirectoryError where the path leads to a directory but does not end with a slash, OSError where no
        name leads to a file.
        """
        for number, pattern in enumerate(self._tries, 1):
            name = merge(pattern.replace("$uri", below))
            # The path's own name is "$uri" or "$uri/" (a directory, asked for without its slash). A name that stands
            # for any path, such as "/index.html", is not.
            own = "$uri" in pattern and name.rstrip("/") == below.rstrip("/")
            if own:
                name = below
            key = (self, name)
            entry = self._cache.find(key, now, certain)
            if entry is not None:
                return entry
            if self._cache.is_absent(key, now):
                continue
            try:
                entry = self._open_index(_names(name)) if name.endswith("/") else self._open(_names(name), {})
            except IsADirectoryError:
                if own and (number == len(self._tries) or self._has_index(_names(name))):
                    raise
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                self._cache.miss(key, now)
            else:
                self._cache.keep(key, entry, now)
                return entry
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _open_index(self, names: list[bytes]) -> Entry:
        """The index of a directory. Without one the answer is 404, and not 403 as in nginx, so that it does not tell
        which directories exist. Raises OSError.
        """
        probes: dict[bytes, Signature | None] = {}
        for index in self._indexes:
            try:
                return self._open([*names, *index], probes)
            except IsADirectoryError:
                continue
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _has_index(self, names: list[bytes]) -> bool:
        try:
            self._open_index(names).retire()
        except OSError:
            return False
        return True

    def _open(self, names: list[bytes], probes: dict[bytes, Signature | None]) -> Entry:
        """The entry for the file that `names` lead to. The paths that were looked up are added to `probes`. Raises
        OSError.
        """
        path = os.path.join(self._tree.root, *names)
        try:
            descriptor, status = self._tree.open_file(names)
        except OSError:
            if not self._tree.is_closed(names):  # a closed path belongs to another route, whatever appears there
                probes[path] = None
            raise
        probes[path] = sign(status)
        name = names[-1]
        kind, extra = self._types.of(name), self._cache_control(names)
        representations = {}
        siblings = self._siblings(names, status, probes) if self._precompressed else []
        if siblings:
            extra = (*extra, ("Vary", "Accept-Encoding"))
        try:
            representations[IDENTITY] = Representation(descriptor, status, kind, extra)
            while siblings:
                coding, descriptor, status = siblings.pop()
                fields = (*extra, ("Content-Encoding", coding))
                representations[coding] = Representation(descriptor, status, kind, fields)
        except BaseException:
            for _, descriptor, _ in siblings:
                os.close(descriptor)
            for representation in representations.values():
                representation.retire()
            raise
        return Entry(representations, probes)

    def _siblings(
        self, names: list[bytes], original: os.stat_result, probes: dict[bytes, Signature | None]
    ) -> list[tuple[str, int, os.stat_result]]:
        """The compressed files beside a file: encoding, descriptor, fstat. One that is older than the `original` is
        left out, as it was made from another version.
        """
        found = []
        for coding, suffix in _SIBLINGS:
            beside = [*names[:-1], names[-1] + suffix]
            path = os.path.join(self._tree.root, *beside)
            try:
                descriptor, status = self._tree.open_file(beside)
            except OSError:
                if not self._tree.is_closed(beside):
                    probes[path] = None
                continue
            probes[path] = sign(status)
            if status.st_mtime_ns < original.st_mtime_ns:
                os.close(descriptor)
            else:
                found.append((coding, descriptor, status))
        return found

    def _cache_control(self, names: list[bytes]) -> Fields:
        path = "/" + b"/".join(names).decode("latin-1")
        for is_meant, value in self._rules:
            if is_meant(path):
                return (("Cache-Control", value),)
        return ()

    async def _list(self, request: Request, listing: Listing, names: list[bytes]) -> Response:
        try:
            return await listing.answer(request, names)
        except OSError as error:
            return _refuse(request, error)


def _names(path: str) -> list[bytes]:
    return [name for name in path.encode("latin-1").split(b"/") if name]


def _rule(pattern: str, value: str) -> tuple[Callable[[str], object], str]:
    """A function that tells whether `pattern` matches the path of a file (latin-1), and `value`. A pattern with a slash
    is matched with the whole path, another with the file's name.
    """
    text = pattern.encode().decode("latin-1")
    return re.compile(translate(text if "/" in text else f"*/{text}")).match, value


def _redirect(request: Request) -> Response:
    """A 301 to the same path with a slash at its end.

    The location is made from the decoded path, and percent-encoded, with exactly one slash in front: clients take
    `//evil/` and `/\\evil/` for another host.
    """
    names = [name for name in request.path.encode("latin-1").split(b"/") if name]
    location = "".join(f"/{urllib.parse.quote(name, safe=_PLAIN)}" for name in names) + "/"
    if request.query:
        location += f"?{request.query}"
    return plain(301, ("Location", location))


def _refuse(request: Request, error: OSError) -> Response:
    """The answer for a file that could not be opened or read."""
    if error.errno in _ABSENT:
        return plain(404)
    if error.errno in _FORBIDDEN:
        return plain(403)
    if error.errno in _EXHAUSTED:
        return plain(503)
    log.error("the file for %s %s cannot be read: %s", request.method, request.target, error)
    return plain(500)
