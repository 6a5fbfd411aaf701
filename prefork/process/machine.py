"""The machine, as this process sees it. Owns the process title, the question of a terminal, and the cores that may be
used.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import psutil

from prefork.logger import log


def set_process_title(role: str) -> None:
    """Have ps and top list this process as "prefork: ROLE", where setproctitle is installed."""
    try:
        setproctitle = importlib.import_module("setproctitle").setproctitle
    except ImportError:
        return
    # setproctitle would overwrite the environment variables, too, to have room for titles longer than these; but people
    # read them in /proc when an application misbehaves
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
    """Keep this process, the worker at `position` (from 0), on one of the cores it may use, round robin."""
    if not hasattr(psutil.Process, "cpu_affinity"):
        log.warning("workers.affinity has no effect: this system does not pin processes to cores")
        return
    process = psutil.Process()
    allowed = sorted(process.cpu_affinity())
    process.cpu_affinity([allowed[position % len(allowed)]])


def cores() -> int:
    """How many cores this process may use: psutil's count, within the affinity mask and the cgroup's CPU quota, which
    is rounded down. At least 1.
    """
    count = psutil.cpu_count() or 1
    if hasattr(psutil.Process, "cpu_affinity"):
        count = min(count, len(psutil.Process().cpu_affinity() or range(count)))
    quota = _cgroup_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def _cgroup_quota() -> float | None:
    """CPU time that the cgroup grants, as a number of CPUs (cgroup v2's cpu.max, v1's cfs_quota_us); None is no limit.

    The lowest limit counts, so those of the ancestors are read, too. In a container, the hierarchy begins at the
    container's own root.
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
    """The directory of this process's cgroup, and its parents up to `root` (cgroups(7), /proc/self/cgroup:
    "ID:CONTROLLERS:PATH"). The cgroup is the one of the `hierarchy`, or of the `controller` where that is not "".
    """
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
