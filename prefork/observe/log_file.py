"""Log files: opens them, and gives them to the user who is to open them anew. Owns what root does to a log by its name.

The directory of a log may belong to the workers' user, who can put a link there in the place of the file at any moment
(CVE-2016-1247 was nginx's). So root goes by file_paths.Walk, and gives away no more than

- a file that it has just created, by O_EXCL, which is no link;
- a regular file of root's with one name that holds nothing, or is in directories that the user cannot rearrange: one
  that logrotate has made, say.

Our own standard streams (/dev/stdout, /proc/self/fd/2) are written to by whatever name, and are never given away.
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
_IS_LINK = (errno.ELOOP, errno.EMLINK)  # what O_NOFOLLOW answers; the latter on FreeBSD
_STREAMS = ("1", "2")  # of our descriptors, those that any link may lead to
_ATTEMPTS = 10  # at a name that comes and goes: logs are rotated meanwhile


@dataclass(frozen=True)
class Owner:
    """Who has to be able to open the files anew: a user, with all his groups."""

    user: int
    groups: frozenset[int]


class Found(Enum):
    """What was found by a name."""

    CREATED = auto()  # nothing, so there is a file now
    ENTRY = auto()
    STREAM = auto()  # a standard stream of our own


def open_log(path: str, owner: Owner | None) -> int:
    """A descriptor to append to the file, which is created where it is missing; as root, for `owner`. Raises OSError.

    It is the caller's to close, and never blocks; a named pipe needs a reader by now.
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
    """Give it away, if that is safe. Raises PermissionError where not even writing to it is."""
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
    """The file `path`, relative to the directory `at`. Raises OSError."""
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
    """What is there by this name, or where a link of this name leads. Raises OSError."""
    try:
        return Place(directory, name).open(_APPENDING), Found.ENTRY
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
    if _is_of_descriptors(directory):  # whose links say where they lead for people to read alone: proc(5)
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
