"""The tree below a root: opens the regular file or the directory a path names, and nothing outside. Owns no HTTP.

Why nothing outside can be reached, whoever renames or relinks whatever meanwhile. A file is reached by a walk: the root
is opened, then each directory by one plain name relative to the descriptor before it, with O_NOFOLLOW, and so is the
file. A step can only lead to an entry of a directory that the walk itself reached from the root: no name is checked
first and followed later, so there is no gap to slip a symlink into. `..` is refused. (A directory moved out of the tree
between two steps is served once more as what it was when it was entered: a part of the tree.)

A symlink therefore ends the walk. It is then resolved by name, and if that leads to a place below the root, the walk
starts again with the names of that place, none of them a symlink. The resolved names are a hint, never a proof: were
they out of date or forged, the next walk would find the file they name in the tree, or nothing.

The root itself is opened anew each time, so a deploy that switches `current -> releases/42` shows in the next request:
2.8 us, against 1.6 us for a stat to validate a descriptor kept open. The walk needs no /proc, and up to three names
it is faster than open + readlink(/proc/self/fd/N), which takes 3.5 us for the readlink alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# O_PATH asks only for the right to search a directory; where it is missing, the right to list it is needed, too.
_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# What O_NOFOLLOW answers to a symlink: ENOTDIR with O_DIRECTORY, else ELOOP; EMLINK on FreeBSD.
_PERHAPS_LINK = frozenset((errno.ENOTDIR, errno.ELOOP, errno.EMLINK))

_WALKS = 3  # one, one more after symlinks were resolved, one more where they changed in between


def open_file(root: bytes, names: list[bytes]) -> tuple[int, os.stat_result]:
    """A descriptor of the regular file that `names` lead to below `root`, and its fstat; the caller closes it.

    `names` are path components without a slash. Raises IsADirectoryError for a directory, FileNotFoundError for a
    special file (it is not opened) and for whatever lies outside, else the OSError of the system call that failed.
    """
    return _reach(root, names, _walk_to_file)


def open_directory(root: bytes, names: list[bytes]) -> int:
    """A descriptor of the directory that `names` lead to below `root`, fit to be listed; the caller closes it.

    Raises FileNotFoundError for whatever lies outside, NotADirectoryError for what is none, else as `open_file`.
    """
    return _reach(root, names, _walk_to_directory)


def _reach(root: bytes, names: list[bytes], walk: Callable[[bytes, list[bytes]], T]) -> T:
    """What `walk` comes to, by way of symlinks where there are any."""
    if b".." in names:
        raise _nothing()
    for _ in range(_WALKS):
        try:
            return walk(root, names)
        except OSError as error:
            if error.errno not in _PERHAPS_LINK:
                raise
        names = _resolve(root, names)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _walk_to_file(root: bytes, names: list[bytes]) -> tuple[int, os.stat_result]:
    at = _enter(root, names[:-1])
    try:
        if not names:
            raise _is_directory()
        return _open_entry(names[-1], at)
    finally:
        os.close(at)


def _walk_to_directory(root: bytes, names: list[bytes]) -> int:
    at = _enter(root, names)
    try:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _enter(root: bytes, names: list[bytes]) -> int:
    """The directory at the end of the walk; the caller closes it."""
    at = os.open(root, _DIRECTORY)
    try:
        for name in names:
            below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    except BaseException:
        os.close(at)
        raise
    return at


def _open_entry(name: bytes, directory: int) -> tuple[int, os.stat_result]:
    # Looked at before it is opened: opening a FIFO wakes its writers, opening a watchdog device starts it.
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if stat.S_ISDIR(mode):
        raise _is_directory()
    if not stat.S_ISREG(mode):
        raise _nothing()
    file = os.open(name, _FILE, dir_fd=directory)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):  # swapped since; O_NONBLOCK kept a FIFO from blocking us
            raise _nothing()
    except BaseException:
        os.close(file)
        raise
    return file, status


def _resolve(root: bytes, names: list[bytes]) -> list[bytes]:
    """The names below `root` of the place where the symlinks in `names` lead; FileNotFoundError if that is outside."""
    try:
        # For the kernel's bounds of 40 links and PATH_MAX, which realpath lacks: `/a/a/a/...` with `a -> .` would cost.
        os.stat(os.path.join(root, *names))
    except OSError as error:  # dangling, in circles, out of our reach: no answer that tells what is there outside
        raise _nothing() from error
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, *names))
    if real == real_root:
        return []
    inside = os.path.join(real_root, b"")
    if not real.startswith(inside):
        raise _nothing()
    return real[len(inside) :].split(b"/")


def _nothing() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _is_directory() -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
