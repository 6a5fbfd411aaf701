"""Endings: how a death is told, and when the OOM killer is suspected."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefork.process.pool import exit_status
from prefork.process.pool.exit_status import OomKills, describe_exit


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-11, "SIGSEGV"), (-60, "signal 60")]
)
def test_an_end_has_a_name(status: int, words: str) -> None:
    assert describe_exit(status) == words


def test_the_oom_killer_is_named_where_it_is_suspected() -> None:
    assert (
        describe_exit(-9, out_of_memory=True) == "SIGKILL, it seems by the kernel's OOM killer, as memory had run out"
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The counters' files: `v2/memory.events`, `v1/memory.oom_control`, `vmstat`; none is there."""
    monkeypatch.setattr(exit_status, "SYSTEM", tmp_path / "vmstat")
    monkeypatch.setattr(
        exit_status, "cgroup_directories", lambda number, name, root: [tmp_path / ("v1" if name else "v2"), tmp_path]
    )
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("v2/memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"),
        ("v1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
        ("vmstat", "nr_free_pages 5\noom_kill {}\n"),
    ],
)
def test_one_more_kill_is_noticed_once(files: Path, file: str, text: str) -> None:
    (files / file).write_text(text.format(5))
    kills = OomKills()
    assert not kills.more()
    (files / file).write_text(text.format(6))
    assert kills.more()
    assert not kills.more()


def test_our_cgroup_counts_and_not_the_whole_system_where_both_tell(files: Path) -> None:
    (files / "v2/memory.events").write_text("oom_kill 1\n")
    (files / "vmstat").write_text("oom_kill 1\n")
    kills = OomKills()
    (files / "vmstat").write_text("oom_kill 2\n")
    assert not kills.more()


def test_a_system_that_tells_nothing_has_killed_nobody(files: Path) -> None:
    assert not OomKills().more()
