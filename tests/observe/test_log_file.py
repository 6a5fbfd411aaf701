"""Log files of a root whose workers are somebody else: theirs to open anew, and nothing that they point at besides."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.net import file_paths
from prefork.observe.log_file import Owner
from prefork.observe.sink import Sink
from tests.e2e.harness import ROOT

THEM, OTHER = 12345, 12346
OWNER = Owner(THEM, frozenset([THEM]))

pytestmark = pytest.mark.skipif(not file_paths.must_walk(), reason="only root gives files away")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one: `logs/` is root's, `theirs/` the workers'; `secret` is root's."""
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    Path("theirs").mkdir()
    give("theirs")
    Path("secret").write_text("root's alone\n")
    Path("secret").chmod(0o600)
    return tmp_path


def give(path: str, user: int = THEM) -> None:
    os.chown(path, user, user, follow_symlinks=False)


def log(path: str, line: bytes = b"a line\n", owner: Owner | None = OWNER) -> os.stat_result:
    """The status of what is at `path` after a line was logged there."""
    sink = Sink(path, owner)
    sink.write(line)
    sink.close()
    return os.stat(path)


@pytest.mark.parametrize("folder", ["logs", "theirs"])
def test_what_is_created_is_given_to_who_opens_it_anew(folder: str) -> None:
    assert log(f"{folder}/a.log").st_uid == THEM
    assert log(f"{folder}/a.log").st_uid == THEM
    assert Path(f"{folder}/a.log").read_bytes() == b"a line\n" * 2
    assert log(f"{folder}/b.log", owner=None).st_uid == 0


def test_what_logrotate_has_made_for_root_is_given_away() -> None:
    Path("logs/a.log").touch()
    assert log("logs/a.log").st_uid == THEM
    os.chown("logs", 0, OTHER)
    Path("logs").chmod(0o775)  # as /var/log is in some distributions
    Path("logs/b.log").write_text("an older line\n")
    assert log("logs/b.log").st_uid == THEM
    Path("theirs/c.log").touch()
    assert log("theirs/c.log").st_uid == THEM  # it held nothing that was not theirs to know


@pytest.mark.parametrize("expose", ["owner", "group", "everybody", "above"])
def test_a_file_of_roots_stays_roots_where_others_could_have_put_it(expose: str) -> None:
    Path("theirs/below").mkdir()
    folder = "theirs/below" if expose == "above" else "logs"
    os.rename("secret", f"{folder}/a.log")
    if expose == "owner":
        give("logs")
    elif expose == "group":
        os.chown("logs", 0, THEM)
        Path("logs").chmod(0o775)
    elif expose == "everybody":
        Path("logs").chmod(0o777)
    status = log(f"{folder}/a.log")
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
    assert Path(f"{folder}/a.log").read_text() == "root's alone\na line\n"


@pytest.mark.parametrize("target", ["../secret", "DIRECTORY/secret", "../missing", "../alias", "/proc/self/fd/NUMBER"])
def test_a_link_of_theirs_to_what_is_roots_is_refused_at_the_start_and_when_it_is_opened_anew(
    directory: Path, target: str
) -> None:
    Path("alias").symlink_to("secret")
    secret = os.open("secret", os.O_RDWR)
    target = target.replace("DIRECTORY", str(directory)).replace("NUMBER", str(secret))
    sink = Sink("theirs/a.log", OWNER)
    os.rename("theirs/a.log", "theirs/old.log")
    os.symlink(target, "theirs/a.log")
    give("theirs/a.log")
    assert sink.reopen().startswith(f"{directory}/theirs/a.log: ")
    sink.write(b"a line\n")
    sink.close()
    assert Path("theirs/old.log").read_bytes() == b"a line\n"
    with pytest.raises(OSError, match=r"leads to a path of another user|No such file"):
        Sink("theirs/a.log", OWNER)
    assert Path("secret").read_text() == "root's alone\n"
    assert Path("secret").stat().st_uid == 0
    assert not Path("missing").exists()
    os.close(secret)


def test_a_directory_of_theirs_that_is_a_link_is_refused() -> None:
    os.symlink("../logs", "theirs/logs")
    give("theirs/logs")
    with pytest.raises(PermissionError, match=f"a symlink of user {THEM} leads to a path of another user"):
        Sink("theirs/logs/a.log", OWNER)
    assert os.listdir("logs") == []


def test_a_hard_link_is_not_given_away_and_not_written_to_where_others_could_have_made_it() -> None:
    os.link("secret", "theirs/a.log")
    with pytest.raises(PermissionError) as caught:
        Sink("theirs/a.log", OWNER)
    assert caught.value.errno == errno.EPERM
    os.link("secret", "logs/a.log")
    assert log("logs/a.log").st_uid == 0
    assert Path("secret").read_text() == "root's alone\na line\n"


def test_a_link_of_roots_leads_to_any_file_which_is_created_where_it_is_missing_and_stays_roots_if_exposed() -> None:
    os.symlink("../theirs/a.log", "logs/a.log")
    assert log("logs/a.log").st_uid == THEM
    os.symlink("../secret", "theirs/b.log")
    assert log("theirs/b.log").st_uid == 0
    os.symlink("theirs", "mine")
    give("mine", OTHER)  # by whom the site is deployed, say
    assert log("mine/c.log").st_uid == THEM


def test_pipes_and_devices_are_nobodys_to_give() -> None:
    os.mkfifo("theirs/pipe")
    reader = os.open("theirs/pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert stat.S_ISFIFO(log("theirs/pipe").st_mode)
    assert os.stat("theirs/pipe").st_uid == 0
    os.close(reader)
    log("/dev/null")
    assert os.stat("/dev/null").st_uid == 0


def test_who_may_not_open_it_anew_writes_on_and_complains_only_when_it_has_been_moved_away() -> None:
    with tempfile.TemporaryDirectory() as everybodys:
        os.chmod(everybodys, 0o755)
        sink = Sink(f"{everybodys}/a.log")
        os.seteuid(THEM)
        try:
            assert sink.reopen() == ""
            os.seteuid(0)
            os.rename(f"{everybodys}/a.log", f"{everybodys}/old.log")
            os.seteuid(THEM)
            assert sink.reopen() == f"{everybodys}/a.log: Permission denied"
        finally:
            os.seteuid(0)
        sink.close()


WRITE = """
import sys
from prefork.observe.log_file import Owner
from prefork.observe.sink import Sink
Sink(sys.argv[1], Owner(12345, frozenset())).write(b"a line\\n")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "theirs/link", "logs/link"])
@pytest.mark.parametrize("make", [lambda path: open(path, "x").close(), os.mkfifo])
def test_our_own_standard_output_is_written_to_by_any_name_and_stays_ours(
    name: str, make: Callable[[Path], None], directory: Path
) -> None:
    for link in ("theirs/link", "logs/link"):
        os.symlink("/dev/stdout", link)
    give("theirs/link")
    make(directory / "output")
    with open(os.open("output", os.O_RDWR), "rb+", buffering=0) as output:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", WRITE, name], stdout=output, env=env, check=True, timeout=20)
        assert os.fstat(output.fileno()).st_uid == 0
        assert output.read(100) == b"a line\n"
