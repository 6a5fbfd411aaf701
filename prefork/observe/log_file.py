"""Log files: opens them and, as root, makes the workers' user their owner, so that he can reopen them. Owns how root
treats the path of a log.

The directory of a log may belong to the workers' user, who can put a link in the place of the file at any moment
(CVE-2016-1247 was nginx's). So root goes by file_paths.Walk, and changes the owner of no other files than

- one that it has just created, by O_EXCL, which is no link;
- a regular file of root's that has one name, and is empty or in directories that the user cannot change: one that
  logrotate has made, say.

Our own standard streams (/dev/stdout, /proc/self/fd/2) may be opened by any name, and their owner is never changed.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from prefork.net import file_paths
from prefork.net.file_paths import ROOT, Place, Walk

_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATING = os.O_CREAT | os.O_EXCL
_MODE = 0o644
_IS_LINK = (errno.ELOOP, errno.EMLINK)  # the errors of O_NOFOLLOW for a symlink; the latter on FreeBSD
_STREAMS = ("1", "2")  # the descriptors that any link may lead to
_ATTEMPTS = 10  # to open a file that appears and disappears, as logs are rotated


@dataclass(frozen=True)
class Owner:
    """The user, with all his groups, who must be able to reopen the log files."""

    user: int
    groups: frozenset[int]


class Found(Enum):
    """The kind of file to which a name has led."""

    CREATED = auto()  # there was none, so it was created
    ENTRY = auto()  # it was there
    STREAM = auto()  # one of our own standard streams


def open_log(path: str, owner: Owner | None) -> int:
    """A descriptor to append to the file, which is created if it is missing. Root opens it for `owner`.

    The descriptor never blocks; the caller must close it. Raises OSError, for a named pipe without a reader as well,
    and PermissionError where root must not even write to the file.
    """
    if not file_paths.must_walk():
        return os.open(path, _APPENDING | os.O_CREAT, _MODE)
    walk = Walk(owner.user if owner else file_paths.NOBODY_ELSE)
    file, found = _open_below(walk, None, path, may_create=True)
    if found is not Found.STREAM:
        try:
            _settle(file, found, file_paths.is_exposed(walk.passed, owner.groups if owner else ()), owner)
        except BaseException:
            os.close(file)
            raise
    return file


def _settle(file: int, found: Found, exposed: bool, owner: Owner | None) -> None:
    """Make `owner` the file's owner, if that is safe. Raises PermissionError where not even writing to it is safe."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        return
    if exposed and status.st_nlink > 1:
        raise PermissionError(errno.EPERM, "it has another name, too (a hard link), and its directory is not root's")
    tells_nothing = not exposed or status.st_size == 0
    is_roots = status.st_uid == ROOT and status.st_nlink == 1
    if owner is not None and (found is Found.CREATED or (is_roots and tells_nothing)):
        with suppress(OSError):  # some file systems have no owners
            os.fchown(file, owner.user, -1)


def _open_below(walk: Walk, at: int | None, path: str, may_create: bool) -> tuple[int, Found]:
    """Open the file `path`, relative to the directory `at`. With `may_create`, it is created if it is missing. Raises
    OSError.
    """
    folder, name = os.path.split(path)
    directory = walk.enter(folder, at)
    try:
        for _ in range(_ATTEMPTS):
            with suppress(FileExistsError):
                if may_create:
                    return Place(directory, name).open(_APPENDING | _CREATING, _MODE), Found.CREATED
            with suppress(FileNotFoundError):
                return _open_entry(walk, directory, name, may_create)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    finally:
        os.close(directory)


def _open_entry(walk: Walk, directory: int, name: str, may_create: bool) -> tuple[int, Found]:
    """Open the file of this name, or the one that a symlink of this name leads to. Raises OSError."""
    try:
        return Place(directory, name).open(_APPENDING), Found.ENTRY
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
    if _is_of_descriptors(directory):  # the text of its links is not always a path that can be followed: proc(5)
        file = os.open(name, _APPENDING, dir_fd=directory)
        return file, Found.STREAM if name in _STREAMS else Found.ENTRY
    target, link = walk.follow(directory, name)
    file, found = _open_below(walk, directory, target, may_create and link.st_uid == ROOT)
    try:
        if found is not Found.STREAM:
            walk.check(link, os.fstat(file))
    except PermissionError:
        os.close(file)
        raise
    return file, found


def _is_of_descriptors(directory: int) -> bool:
    """Whether this is the directory of our own descriptors."""
    with suppress(OSError):  # there is no /proc
        return os.path.samestat(os.fstat(directory), os.stat("/proc/self/fd"))
    return False
