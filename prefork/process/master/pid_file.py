"""The pid file: by which others find the master, and by whose lock there is one master at a time."""

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
_IS_LINK = (errno.ELOOP, errno.EMLINK)  # what O_NOFOLLOW answers; the latter on FreeBSD


class PidFile:
    """A locked pid file. The lock, not the number in it, says whether its master lives: it cannot go stale.

    It is a regular file of ours with this one name: what a link leads to is another's, and is not to be overwritten.
    While it is `lent`, it is another master's to remove, who holds the same lock by a descriptor of its own.
    """

    def __init__(self, path: str, borrowed: int | None = None, made_directory: bool = False) -> None:
        """Take the lock, unless `borrowed` is a descriptor that shares it with the master whose directory it is.

        Raises StartError where another master holds it, or the file cannot be made.
        """
        self.path = file_paths.absolute(path)
        self.lent = borrowed is not None
        self.made_directory = made_directory
        try:
            if borrowed is not None:
                file_lock.take(borrowed)  # it is ours already, unless that master knew of flock(2) alone
            self._file = self._lock(path) if borrowed is None else borrowed
        except OSError as error:
            why = "it is a symbolic link" if error.errno in _IS_LINK else error.strerror
            raise StartError(f"{path}: cannot make this pid file: {why}") from None

    def _lock(self, told: str) -> int:
        """The locked descriptor. Whoever leaves may remove file and directory between any two steps of ours.

        Raises OSError, and StartError where another master has it; the operator knows the path as `told`.
        """
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError), file_paths.place(self.path, make=True) as place:
                self.made_directory = self.made_directory or place.made
                file = _try_lock(place, told)
                if file is not None:
                    return file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def write(self, pid: int) -> None:
        """Make `pid` known. Raises StartError."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{pid}\n".encode(), 0)
        except OSError as error:
            raise StartError(f"{self.path}: cannot write this pid file: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the file, its directory if we made it and it is empty, and let the lock go."""
        if not self.lent:
            with suppress(OSError):  # somebody tidied up, or keeps something there
                with file_paths.place(self.path) as place:
                    if place.holds(os.fstat(self._file)):
                        place.unlink()
                if self.made_directory:
                    file_paths.remove_directory(os.path.dirname(self.path))
        os.close(self._file)

    def fileno(self) -> int:
        return self._file

    def close_in_child(self) -> None:
        """A child must not hold the lock: it would outlive the master's death."""
        os.close(self._file)


def _try_lock(place: file_paths.Place, told: str) -> int | None:
    """A locked descriptor of the file; None where it is no longer the one that stands there, or is given up, as others
    have locked it for reading.

    Raises OSError, and StartError where another master has locked it.
    """
    file = place.open(os.O_RDWR | os.O_CREAT | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if problem := _not_ours(status):
            raise OSError(errno.EPERM, problem)
        file_lock.take(file)
        if place.holds(status):
            return file
    except BlockingIOError:
        spoilt, holder = file_lock.is_read_locked(file), _holder(file)
        if spoilt and place.holds(status):
            place.unlink()
        os.close(file)
        if spoilt:
            return None
        raise StartError(f"{told}: {holder} runs with this pid file; `prefork stop` stops it") from None
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _not_ours(status: os.stat_result) -> str:
    """Why a pid file is not ours to write to; "" where it is. Whose master has just left has no name at all."""
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
