"""The pid file: it tells others the pid of the master. Owns its lock, by which there is one master at a time."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from prefork.errors import StartError
from prefork.net import file_paths
from prefork.process.master import file_lock

ATTEMPTS = 100  # to take a lock while other masters come and go
LONGEST_PID = 32  # bytes that are read of another master's pid file
_IS_LINK = (errno.ELOOP, errno.EMLINK)  # the errors of O_NOFOLLOW at a link; the latter on FreeBSD


class PidFile:
    """A locked pid file. The lock, not the number in the file, says whether the master lives, so it cannot go stale.

    It is a regular file of this user or root, with this one name: a link may lead to somebody's file, which must not be
    overwritten. While the file is `lent`, another master holds the same lock by its own descriptor, and that one will
    remove the file.
    """

    def __init__(self, path: str, borrowed: int | None = None, made_directory: bool = False) -> None:
        """Take the lock, unless `borrowed` is a descriptor that shares the lock with another master. `made_directory`
        tells whether that master has made the directory.

        Raises StartError where another master holds the lock, or the file cannot be made.
        """
        self.path = file_paths.absolute(path)
        self.lent = borrowed is not None
        self.made_directory = made_directory
        try:
            if borrowed is not None:
                file_lock.acquire(borrowed)  # shared already, unless that master locked it by flock(2)
            self._file = self._lock(path) if borrowed is None else borrowed
        except OSError as error:
            why = "it is a symbolic link" if error.errno in _IS_LINK else error.strerror
            raise StartError(f"{path}: cannot make this pid file: {why}") from None

    def _lock(self, told: str) -> int:
        """The locked descriptor. A master that ends may remove the file and the directory between any two steps of
        this, so there are ATTEMPTS.

        Raises OSError, and StartError where another master has the lock. The operator knows the path as `told`.
        """
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError), file_paths.place(self.path, make=True) as place:
                self.made_directory = self.made_directory or place.made
                file = _try_lock(place, told)
                if file is not None:
                    return file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def write(self, pid: int) -> None:
        """Write `pid` to the file. Raises StartError."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{pid}\n".encode(), 0)
        except OSError as error:
            raise StartError(f"{self.path}: cannot write this pid file: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the file, and the directory that was made for it if that is empty, and release the lock. Where it is
        lent, only close the descriptor.
        """
        if not self.lent:
            with suppress(OSError):  # somebody has removed them, or the directory is not empty
                with file_paths.place(self.path) as place:
                    if place.holds(os.fstat(self._file)):
                        place.unlink()
                if self.made_directory:
                    file_paths.remove_directory(os.path.dirname(self.path))
        os.close(self._file)

    def fileno(self) -> int:
        return self._file

    def close_in_child(self) -> None:
        """Close the descriptor in a child: there the lock would outlive the master."""
        os.close(self._file)


def _try_lock(place: file_paths.Place, told: str) -> int | None:
    """A locked descriptor of the file. None where another attempt is due: the file has been removed or replaced
    meanwhile, or was locked for reading, so that this has removed it.

    Raises OSError, and StartError where another master has locked the file.
    """
    file = place.open(os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if problem := _not_ours(status):
            raise OSError(errno.EPERM, problem)
        file_lock.acquire(file)
        if place.holds(status):
            return file
    except BlockingIOError:
        is_read_locked, holder = file_lock.is_read_locked(file), _holder(file)
        if is_read_locked and place.holds(status):
            place.unlink()
        os.close(file)
        if is_read_locked:
            return None
        raise StartError(f"{told}: {holder} runs with this pid file; `prefork stop` stops it") from None
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _not_ours(status: os.stat_result) -> str:
    """The reason not to write to this file; "" for none. A file that its master has just removed has no name at all;
    that is no reason.
    """
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_nlink > 1:
        return "it has another name, too (a hard link)"
    return "" if status.st_uid in (os.geteuid(), file_paths.ROOT) else f"it belongs to user {status.st_uid}"


def _holder(file: int) -> str:
    try:
        return f"a master with pid {int(os.pread(file, LONGEST_PID, 0))}"
    except (OSError, ValueError):
        return "another master"
