"""The pid file: one holder at a time, and nothing of anybody else's is touched."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from prefork.errors import StartError
from prefork.process.master.pid_file import PidFile

ROOT = Path(__file__).parents[3]
NOBODY = 65534


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
    with pytest.raises(StartError, match=r"pid file: a symlink of user 65534 leads to a path of another user$"):
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
from prefork.process.master.pid_file import PidFile

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
