"""Exit statuses. Owns their description in words, and the check whether the kernel killed a process as memory had run
out.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from prefork.process.machine import cgroup_directories

CGROUPS = Path("/sys/fs/cgroup")
SYSTEM = Path("/proc/vmstat")


def describe_exit(status: int, out_of_memory: bool = False) -> str:
    """A status in words: "SIGKILL", "exit status 3". `status` is as os.waitstatus_to_exitcode returns it: the exit
    status, or minus the signal's number.
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"{name}, it seems by the kernel's OOM killer, as memory had run out" if out_of_memory else name


class OomKills:
    """How many processes the kernel has killed as memory had run out, in this process's cgroup, or in the whole system
    where the cgroup does not count them.
    """

    def __init__(self) -> None:
        self._known = _count()

    def more(self) -> bool:
        """Whether there are more than at the last call, or at the start."""
        before, self._known = self._known, _count()
        return self._known > before


def _count() -> int:
    """The `oom_kill` of the first file that has one: cgroup v2's, v1's, the system's (Linux 4.13). 0 where none has."""
    for file in _counters():
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdecimal():
                return int(value)
    return 0


def _counters() -> Iterator[Path]:
    for directory in cgroup_directories("0", "", CGROUPS)[:1]:
        yield directory / "memory.events"
    for directory in cgroup_directories("", "memory", CGROUPS / "memory")[:1]:
        yield directory / "memory.oom_control"
    yield SYSTEM
