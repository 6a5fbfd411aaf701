"""Paths: root follows the symlinks of others to what is theirs, and nowhere else; a directory keeps its name."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from prefork.net import file_paths
from prefork.net.file_paths import Walk

THEM, OTHERS = 12345, 12346
is_root = pytest.mark.skipif(not file_paths.must_walk(), reason="for root, on Linux")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with `ours/`, `theirs/` and `others/` in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("ours", "theirs", "others"):
        (tmp_path / name).mkdir()
    if os.geteuid() == 0:
        os.chown("theirs", THEM, THEM)
        os.chown("others", OTHERS, OTHERS)
    return tmp_path


def link(name: str, target: str, owner: int = -1) -> None:
    os.symlink(target, name)
    os.chown(name, owner, owner, follow_symlinks=False)


def leads(path: str, walk: Walk | None = None) -> Path:
    """Where a walk to the directory `path` arrives."""
    found = (walk or Walk()).enter(path)
    try:
        return Path(os.readlink(f"/proc/self/fd/{found}"))
    finally:
        os.close(found)


@is_root
@pytest.mark.parametrize("path", ["ours", "./ours/", "theirs/../ours", "ours//.", "ours/../theirs/../ours"])
def test_a_walk_arrives_where_the_path_leads(directory: Path, path: str) -> None:
    assert leads(path) == leads(str(directory / path)) == directory / "ours"
    assert leads("") == directory


@is_root
def test_our_own_links_lead_everywhere_those_of_others_to_what_is_theirs_alone(directory: Path) -> None:
    link("mine", "theirs")
    link("honest", "mine", THEM)
    link("absolute", str(directory / "theirs"), THEM)
    assert leads("mine") == leads("honest") == leads("absolute") == directory / "theirs"
    for target in ("ours", "others", "/etc", "theirs/../ours", "back"):
        link(f"theirs/astray-{target.replace('/', '-')}", os.path.join("..", target), THEM)
    link("back", "ours")
    for path in Path("theirs").iterdir():
        with pytest.raises(PermissionError, match=f"a symlink of user {THEM} leads to a path of another user"):
            leads(str(path))
    assert leads("theirs/astray-others", Walk(friend=OTHERS)) == directory / "others"


@is_root
@pytest.mark.parametrize("path", ["round", "missing", "file", "file/below", "dangling"])
def test_where_there_is_no_directory_nothing_is_left_open(path: str) -> None:
    link("round", "round")
    link("dangling", "nowhere")
    Path("file").touch()
    gc.collect()  # descriptors that garbage of earlier tests holds are not to close meanwhile
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"No such file|Not a directory|Too many levels"):
        leads(path)
    assert os.listdir("/proc/self/fd") == before


def test_what_is_done_at_a_place_is_done_in_the_directory_that_was_found(directory: Path) -> None:
    (directory / "ours/file").touch()
    with file_paths.place("ours/file") as place:
        os.rename("ours", "moved")
        os.mkdir("ours")
        (directory / "ours/file").touch()
        assert place.holds(os.stat("moved/file"))
        assert not place.holds(os.stat("ours/file"))
        place.unlink()
        assert not place.holds(os.stat("ours/file"))
    assert Path("ours/file").exists()
    assert not Path("moved/file").exists()


def test_directories_that_are_missing_are_made_where_that_is_wanted() -> None:
    with pytest.raises(FileNotFoundError), file_paths.place("a/b/file"):
        pass
    with file_paths.place("a/b/file", make=True) as place:
        assert place.made
        os.close(place.open(os.O_CREAT | os.O_WRONLY))
    assert stat.S_ISREG(os.stat("a/b/file").st_mode)
    with file_paths.place("a/b/file", make=True) as place:
        assert not place.made
        place.unlink()
    file_paths.remove_directory("a/b")
    assert os.listdir("a") == []


def test_here_is_what_the_shell_calls_it_and_has_a_name_when_it_is_gone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PWD", raising=False)
    assert file_paths.here() == str(directory)
    link("current", "ours")
    monkeypatch.setenv("PWD", str(directory / "current"))
    assert file_paths.here() == str(directory)
    os.chdir("current")
    assert file_paths.here() == str(directory / "current")
    os.rmdir(directory / "ours")
    os.mkdir(directory / "ours")
    assert file_paths.here() == str(directory / "current")
    assert file_paths.absolute("x/../y") == str(directory / "current/y")
    monkeypatch.delenv("PWD")
    assert file_paths.here() == str(directory / "ours")
    assert file_paths.absolute("/x/../y") == "/y"


@pytest.mark.parametrize("walks", [False, True], ids=["by name", "walked"])
def test_directories_that_are_made_on_the_way_are_writable_by_us_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walks: bool
) -> None:
    monkeypatch.setattr(file_paths, "must_walk", lambda: walks)
    before = os.umask(0)
    try:
        with file_paths.place(str(tmp_path / "a/b/c/file"), make=True) as place:
            assert place.made
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")] == [0o755] * 3
