"""Paths: where a name leads, for a process that makes, opens and removes files by name all its life, perhaps as root.
Owns the walk that root takes.

The owner of a directory may put a symlink there at any moment, and so have root write to a file of his choice, remove
it or give it away. Therefore root walks: it opens each directory by one plain name, relative to the descriptor of the
directory before. A symlink of another user may lead only to a file of that user, or of the user for whom root works
there. (The kernel has a similar rule for symlinks in directories like /tmp: protected_symlinks in proc(5).) Every
operation at the end of the walk is relative to the descriptor of the last directory.

Any other user is bound by the permissions of the system anyway, so there a path is opened as it stands; likewise where
there is no O_PATH (open(2), Linux).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

ROOT = 0
NOBODY_ELSE = -1

_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_LINKS = 40  # symlinks followed on one walk, as by the kernel


def must_walk() -> bool:
    """True when names must be distrusted: when we are root, on a system where the walk is possible."""
    return os.geteuid() == ROOT and hasattr(os, "O_PATH")


def here() -> str:
    """The current directory by the name that the shell has for it, in which a symlink may later lead elsewhere.

    Where the directory has been removed, the name that it had.
    """
    name = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(name) and os.path.samefile(name, os.curdir):
            return name
    try:
        return os.getcwd()
    except FileNotFoundError:
        return name if os.path.isabs(name) else _name_of_old()


def _name_of_old() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
    return os.sep


def absolute(path: str) -> str:
    """As os.path.abspath, also where the current directory has been removed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return os.path.normpath(os.path.join(here(), path))


@dataclass(frozen=True)
class Place:
    """The entry `name` of the directory behind the descriptor `directory`. `made`: that directory was missing, and was
    made.

    `path` is the name by which the entry was asked for. `exposed`: that name may lead elsewhere at any moment.
    """

    directory: int
    name: str
    path: str = ""
    made: bool = False
    exposed: bool = False

    def status(self) -> os.stat_result:
        """The status of the entry itself, even if it is a symlink. Raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def holds(self, status: os.stat_result) -> bool:
        """True when the entry is the very file that has this status."""
        with suppress(OSError):
            return os.path.samestat(self.status(), status)
        return False

    def open(self, flags: int, mode: int = 0o644) -> int:
        """A descriptor of the entry, which must not be a symlink. Raises OSError."""
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.directory)

    def unlink(self) -> None:
        """Raises OSError."""
        os.unlink(self.name, dir_fd=self.directory)


@contextmanager
def place(path: str, *, make: bool = False) -> Iterator[Place]:
    """Where `path` leads, its last name aside. With `make`, missing directories are made, with mode 0755. Raises
    OSError.
    """
    folder, name = os.path.split(path)
    exposed = False
    if must_walk():
        walk = Walk()
        directory, made = walk.enter(folder, make=make), walk.made
        exposed = is_exposed(walk.passed)
    else:
        made = make and not os.path.isdir(folder or os.curdir)
        if made:
            _make_directories(folder)
        directory = os.open(folder or os.curdir, _DIRECTORY)
    try:
        yield Place(directory, name, path, made, exposed)
    finally:
        os.close(directory)


def _make_directories(folder: str) -> None:
    """As os.makedirs, which lets the umask decide who may write to those above the last one."""
    above = os.path.dirname(folder)
    if above and not os.path.isdir(above):
        _make_directories(above)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o755)


def change_directory(path: str) -> None:
    """Make a directory the current one. Raises OSError."""
    if not must_walk():
        os.chdir(path)
        return
    directory = Walk().enter(path)
    try:
        os.fchdir(directory)
    finally:
        os.close(directory)


@contextmanager
def inside(directory: int) -> Iterator[None]:
    """Make that directory the current one within the block. Raises OSError."""
    before = open_current()
    try:
        os.fchdir(directory)
        try:
            yield
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


def is_exposed(passed: Iterable[os.stat_result], groups: Container[int] | None = None) -> bool:
    """True when a user other than root can rearrange one of these directories, or has made one of these links. A
    group's right to write counts only where the group is one of `groups`; None means any.
    """
    for status in passed:
        if status.st_uid != ROOT:
            return True
        by_group = status.st_mode & stat.S_IWGRP and (groups is None or status.st_gid in groups)
        if (by_group or status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
            return True
    return False


def open_current() -> int:
    """A descriptor of the current directory, to come back by. Raises OSError."""
    return os.open(os.curdir, _DIRECTORY)


def remove_directory(path: str) -> None:
    """Remove an empty directory, by a walk as in `place`. Raises OSError."""
    with place(path) as found:
        os.rmdir(found.name, dir_fd=found.directory)


class Walk:
    """One walk of root through directories. `passed` has the status of each directory on the way, and of each symlink
    of another user. `made`: the last directory was missing, and was made.

    `friend` is a user to whose files such a symlink may lead, besides those of its owner.
    """

    def __init__(self, friend: int = NOBODY_ELSE) -> None:
        self.passed: list[os.stat_result] = []
        self.made = False
        self._friend = friend
        self._links = 0

    def enter(self, path: str, at: int | None = None, *, make: bool = False) -> int:
        """A descriptor of the directory `path`, which is relative to the directory of `at`. Raises OSError."""
        start = os.open(os.sep if path.startswith(os.sep) else os.curdir, _DIRECTORY, dir_fd=at)
        self.passed.append(os.fstat(start))
        return self._descend(start, path, make)

    def follow(self, at: int, name: str) -> tuple[str, os.stat_result]:
        """The target of the symlink `name` in the directory `at`, as it is written, and the status of the symlink.
        Raises OSError, also after 40 symlinks.
        """
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            return self._read(link)
        finally:
            os.close(link)

    def check(self, link: os.stat_result, target: os.stat_result) -> None:
        """Raises PermissionError where root must not follow this link to that target."""
        if link.st_uid not in (ROOT, target.st_uid) and target.st_uid != self._friend:
            raise PermissionError(errno.EPERM, f"a symlink of user {link.st_uid} leads to a path of another user")

    def _read(self, link: int) -> tuple[str, os.stat_result]:
        self._links += 1
        if self._links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        status = os.fstat(link)
        if status.st_uid != ROOT:
            self.passed.append(status)
        return os.readlink("", dir_fd=link), status

    def _descend(self, at: int, path: str, make: bool) -> int:
        """The directory at the end of `path`, from `at` on. Closes `at`."""
        try:
            for name in path.split(os.sep):
                if name not in ("", os.curdir):
                    below = self._step(at, name, make)
                    os.close(at)
                    at = below
        except BaseException:
            os.close(at)
            raise
        return at

    def _step(self, at: int, name: str, make: bool) -> int:
        self.made = make and _make(name, at)
        entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        status = os.fstat(entry)
        if stat.S_ISDIR(status.st_mode):
            self.passed.append(status)
            return entry
        try:
            if not stat.S_ISLNK(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            target, link = self._read(entry)
        finally:
            os.close(entry)
        found = self.enter(target, at)
        try:
            self.check(link, os.fstat(found))
        except PermissionError:
            os.close(found)
            raise
        return found


def _make(name: str, at: int) -> bool:
    """Make a directory. False: the name is taken. Raises OSError."""
    try:
        os.mkdir(name, 0o755, dir_fd=at)
    except FileExistsError:
        return False
    return True
