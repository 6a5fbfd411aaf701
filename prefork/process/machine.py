"""Who we are on this machine: the pid file, the title, the terminal, and how many cores are ours."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import psutil

from prefork.errors import StartError
from prefork.logger import log
from prefork.net import file_paths
from prefork.process import file_lock

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


def entitle(role: str) -> None:
    """Be listed as "prefork: ROLE" by ps and top, where setproctitle is installed."""
    try:
        setproctitle = importlib.import_module("setproctitle").setproctitle
    except ImportError:
        return
    # it would take the place of the environment, too, for longer titles than there are here; and what can be read in
    # /proc of that is what people look for when an application misbehaves
    os.environ["SPT_NOENV"] = "1"
    setproctitle(f"prefork: {role}")
    del os.environ["SPT_NOENV"]


def in_terminal() -> bool:
    """Whether this process has a controlling terminal, in the foreground or not (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def pin(position: int) -> None:
    """Keep this process, the worker at `position` from 0 on, on one core of those that it may use, in turn."""
    if not hasattr(psutil.Process, "cpu_affinity"):
        log.warning("workers.affinity has no effect: this system does not pin processes to cores")
        return
    process = psutil.Process()
    allowed = sorted(process.cpu_affinity())
    process.cpu_affinity([allowed[position % len(allowed)]])


def cores() -> int:
    """How many cores this process may use: psutil's count, within the affinity mask and the cgroup's CPU quota."""
    count = psutil.cpu_count() or 1
    if hasattr(psutil.Process, "cpu_affinity"):
        count = min(count, len(psutil.Process().cpu_affinity() or range(count)))
    quota = _cgroup_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def _cgroup_quota() -> float | None:
    """CPUs' worth of time that the cgroup grants (cgroup v2's cpu.max, v1's cfs_quota_us); None is no limit.

    The nearest limit counts, so the ancestors' are looked at too. In a container the hierarchy begins at its own root.
    """
    quotas = [*_quotas_v2(), *_quotas_v1()]
    return min(quotas, default=None)


def _quotas_v2() -> list[float]:
    quotas = []
    for directory in cgroup_directories("0", "", Path("/sys/fs/cgroup")):
        try:
            quota, period = (directory / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such file at the root; "max" is no number
    return quotas


def _quotas_v1() -> list[float]:
    quotas = []
    for directory in cgroup_directories("", "cpu", Path("/sys/fs/cgroup/cpu")):
        try:
            quota = int((directory / "cpu.cfs_quota_us").read_text())
            period = int((directory / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            quotas.append(quota / period)
    return quotas


def cgroup_directories(hierarchy: str, controller: str, root: Path) -> list[Path]:
    """This process's directory below `root` and all above it (cgroups(7), /proc/self/cgroup: "ID:CONTROLLERS:PATH")."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == hierarchy or (controller and controller in controllers.split(",")):
            own = root / path.lstrip("/")
            return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return [root]
