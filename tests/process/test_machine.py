"""The pid file, whose lock decides who lives, and how many cores are ours by count, affinity and quota."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil
import pytest

from prefork.errors import StartError
from prefork.process import machine
from prefork.process.machine import PidFile, cores

ROOT = Path(__file__).parents[2]
NOBODY = 65534
Tree = Callable[[dict[str, str]], None]


def test_a_pid_file_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run/prefork.pid"
    first = PidFile(str(path))
    first.write(4711)
    with pytest.raises(StartError, match="a master with pid 4711 runs with this pid file"):
        PidFile(str(path))
    assert path.read_text() == "4711\n"
    first.remove()
    PidFile(str(path)).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="others have only locks that any reader can take")
@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_no_lock_of_somebody_who_may_only_read_it_keeps_a_master_out(
    tmp_path: Path, lock: Callable[[IO[str], int], None]
) -> None:
    path = tmp_path / "pid"
    path.write_text("4711\n")
    with path.open() as file:
        lock(file, fcntl.LOCK_EX if lock is fcntl.flock else fcntl.LOCK_SH)
        first = PidFile(str(path))
        first.write(4712)
        with pytest.raises(StartError, match="a master with pid 4712 runs with this pid file"):
            PidFile(str(path))
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    first.remove()
    assert not path.exists()


def test_a_pid_file_that_names_nobody_yet_is_refused_all_the_same(tmp_path: Path) -> None:
    first = PidFile(str(tmp_path / "pid"))
    with pytest.raises(StartError, match="another master runs with this pid file"):
        PidFile(str(tmp_path / "pid"))
    first.remove()


def test_what_stood_in_a_stale_file_is_overwritten_whole(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("123456789 and a long tail\n")
    file = PidFile(str(tmp_path / "pid"))
    file.write(1)
    assert (tmp_path / "pid").read_text() == "1\n"
    file.remove()


def test_removing_is_no_error_where_somebody_tidied_up_before(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "run/pid"))
    (tmp_path / "run/pid").unlink()
    (tmp_path / "run").rmdir()
    file.remove()


def test_a_file_that_another_master_made_in_the_place_of_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    first = PidFile(str(path))
    path.unlink()
    second = PidFile(str(path))
    second.write(2)
    first.remove()
    assert path.read_text() == "2\n"
    second.remove()


@pytest.mark.parametrize("path", ["file/pid", ".", "loop/pid", "dangling/pid", "dangling"])
def test_a_place_where_no_file_can_be_is_named_and_left_as_it_was(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere/at/all")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StartError, match=f"^{path}: cannot make this pid file: "):
        PidFile(path)
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep this")
    (tmp_path / "link").symlink_to("precious")
    with pytest.raises(StartError, match=r"link: cannot make this pid file: it is a symbolic link$"):
        PidFile(str(tmp_path / "link"))
    (tmp_path / "name").hardlink_to(precious)
    with pytest.raises(StartError, match="name: cannot make this pid file: it has another name, too"):
        PidFile(str(tmp_path / "name"))
    assert precious.read_text() == "keep this"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    with pytest.raises(StartError, match=r"pid: cannot make this pid file: it is no regular file$"):
        PidFile(str(tmp_path / "pid"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_neither_writes_to_the_file_of_another_user_nor_is_led_elsewhere_by_one(tmp_path: Path) -> None:
    (tmp_path / "pid").touch()
    os.chown(tmp_path / "pid", NOBODY, NOBODY)
    with pytest.raises(StartError, match=f"pid: cannot make this pid file: it belongs to user {NOBODY}$"):
        PidFile(str(tmp_path / "pid"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to("elsewhere")
    os.chown(tmp_path / "run", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(StartError, match=r"pid file: a symlink of user 65534 leads to what is not that user's$"):
        PidFile(str(tmp_path / "run/pid"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_directory_that_is_made_for_it_is_writable_by_us_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = PidFile(str(tmp_path / "a/b/pid"))
    finally:
        os.umask(before)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o755
    file.remove()
    assert not (tmp_path / "a/b").exists()


COME_AND_GO = """
import os, sys
from prefork.errors import StartError
from prefork.process.machine import PidFile

for _ in range(1000):
    try:
        file = PidFile("run/pid")
    except StartError as error:
        if "runs with this pid file" not in str(error):
            sys.exit(str(error))
    else:
        os.mkdir("alone")
        os.rmdir("alone")
        file.remove()
"""


def test_masters_that_come_and_go_at_once_never_hold_it_together_nor_stumble(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COME_AND_GO]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    masters = [subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [master.communicate(timeout=30)[1] for master in masters] == [""] * 4


# ---- cores


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
