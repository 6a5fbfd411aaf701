"""The machine: how many cores are ours by count, affinity and quota."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from prefork.process import machine
from prefork.process.machine import cores

ROOT = Path(__file__).parents[2]
Tree = Callable[[dict[str, str]], None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """`tree({path: text})`: the machine's root directory, in the eyes of `cores`; it has 8 cores, all of them ours."""
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / str(path).lstrip("/"))
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)), raising=False)

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


V2 = "0::/app.slice/web\n"
OWN = "/sys/fs/cgroup/app.slice/web/cpu.max"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": V2}, 8),
        ({"/proc/self/cgroup": V2, OWN: "max 100000\n"}, 8),
        ({"/proc/self/cgroup": V2, OWN: "400000 100000\n"}, 4),
        ({"/proc/self/cgroup": V2, OWN: "399999 100000\n"}, 3),
        ({"/proc/self/cgroup": V2, OWN: "50000 100000\n"}, 1),
        ({"/proc/self/cgroup": V2, OWN: "9900000 100000\n"}, 8),
        ({"/proc/self/cgroup": V2, OWN: "max 100000\n", "/sys/fs/cgroup/app.slice/cpu.max": "200000 100000\n"}, 2),
        ({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"/proc/self/cgroup": "0::/of/the/host\n", "/sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"/proc/self/cgroup": V2, OWN: "nonsense\n"}, 8),
        ({"/proc/self/cgroup": V2, OWN: "100000 0\n"}, 8),
        ({"/proc/self/cgroup": V2, OWN: ""}, 8),
    ],
)
def test_a_quota_of_cgroup_v2_counts_wherever_above_us_it_stands(tree: Tree, files: dict[str, str], count: int) -> None:
    tree(files)
    assert cores() == count


def v1(quota: str, period: str = "100000") -> dict[str, str]:
    return {
        "/sys/fs/cgroup/cpu/docker/c0ffee/cpu.cfs_quota_us": f"{quota}\n",
        "/sys/fs/cgroup/cpu/docker/c0ffee/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [("-1", "100000", 8), ("250000", "100000", 2), ("50000", "50000", 1), ("100", "0", 8), ("x", "1", 8)],
)
def test_a_quota_of_cgroup_v1_counts(tree: Tree, quota: str, period: str, count: int) -> None:
    tree({"/proc/self/cgroup": "4:cpu,cpuacct:/docker/c0ffee\n1:name=systemd:/\n", **v1(quota, period)})
    assert cores() == count


def test_in_a_container_the_hierarchy_of_cgroup_v1_begins_at_its_own_root(tree: Tree) -> None:
    tree(
        {
            "/proc/self/cgroup": "4:cpu:/docker/c0ffee\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert cores() == 3


def test_the_smallest_of_count_affinity_and_quota_is_ours(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree({"/proc/self/cgroup": V2, OWN: "500000 100000\n"})
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: [0, 3, 5])
    assert cores() == 3
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    assert cores() == 2
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)
    assert cores() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity masks")
def test_a_process_pinned_to_one_core_has_one() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from prefork.process.machine import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.stdout == "1\n"


def test_the_machine_itself_is_asked_without_an_error() -> None:
    assert 1 <= cores() <= (psutil.cpu_count() or 1)
