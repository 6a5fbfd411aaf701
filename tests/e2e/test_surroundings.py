"""`prefork start` where it is not welcome, or started carelessly: users without rights, closed or broken streams."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, pids
from tests.e2e.harness import CONFIG as CONFIG_FILE
from tests.e2e.harness import ROOT, Server, free_port

NOBODY = 65534
RUNTIME = Path(f"/tmp/prefork-{NOBODY}")  # where nobody's servers without a file have what they have
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
# The command line of somebody else, once all is imported: below root's home nobody else can read an interpreter.
AS_NOBODY = f"""
import encodings.idna, os, sys
from prefork.cli import main
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(main(sys.argv[1:]))
"""


class Redirected(Server):
    """A Server that prints to `output`, or where the shell's `redirections` lead: an answer tells that it is ready."""

    def __init__(self, directory: Path, text: str, redirections: str, output: int | None = None) -> None:
        self.redirections = redirections
        self.output = output
        super().__init__(directory, text)

    def launch(self) -> None:
        self.port = free_port()
        self.rewrite(self.text)
        (self.directory / "stderr.log").touch()  # for messages of failures: what was printed is elsewhere
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" -m prefork start -c {CONFIG_FILE} {self.redirections}', sys.executable],
            cwd=self.directory,
            env=self.env,
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
        )
        self.master = psutil.Process(self.process.pid)

    def is_ready_or_gone(self) -> bool:
        with suppress(OSError):
            return self.get().status == 200
        return self.process.poll() is not None


@contextmanager
def redirected(directory: Path, redirections: str, output: int | None = None) -> Iterator[Server]:
    (directory / "app.py").write_text(APP)
    server = Redirected(directory, CONFIG.replace('access = ""', 'access = "-"'), redirections, output)
    try:
        eventually(server.is_ready_or_gone, 10, what="an answer")
        assert server.process.poll() is None
        yield server
    finally:
        server.close()


def see_that_it_lives(server: Server) -> None:
    """It answers, replaces a worker, reloads, and its workers are no copies of the master."""
    (before,) = pids(server)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pids(server) - {before}, what="a worker in the place of the one that was killed")
    assert server.command("reload").returncode == 0
    assert server.get().status == 200
    assert (server.directory / "run/prefork.pid").read_text() == f"{server.process.pid}\n"
    eventually(lambda: len(pids(server)) == 1, what="the end of the old worker")
    assert len(server.family()) == 2


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_at_start_do_not_matter(tmp_path: Path, redirections: str) -> None:
    with redirected(tmp_path, redirections) as server:
        see_that_it_lives(server)


@pytest.mark.parametrize("redirections", ["> /dev/full", "> /dev/full 2> /dev/full"])
def test_streams_that_are_full_do_not_matter(tmp_path: Path, redirections: str) -> None:
    with redirected(tmp_path, redirections) as server:
        see_that_it_lives(server)


def test_a_pipe_that_nobody_reads_does_not_matter(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with redirected(tmp_path, "", writer) as server:
        os.close(writer)
        see_that_it_lives(server)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of nobody's, where tmp_path is root's alone; RUNTIME goes with it."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    directory = Path(tempfile.mkdtemp(prefix="prefork-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
    with suppress(FileNotFoundError):
        RUNTIME.rmdir()


def as_nobody(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_NOBODY, *arguments]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=20)


def test_a_directory_that_is_not_ours_is_named(home: Path) -> None:
    (home / "server.toml").write_text('listen = "unix:/tmp/prefork-never.sock"\n[[route]]\nfiles = "."\n')
    ended = as_nobody("start", "-c", "server.toml", cwd=home)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "run/prefork.pid" in ended.stderr
    assert "ermission" in ended.stderr
    assert [entry.name for entry in home.iterdir()] == ["server.toml"]


def test_an_application_is_served_from_a_directory_that_is_not_ours(home: Path) -> None:
    """By nobody, whose runtime directory is found without a word of the environment's."""
    with subprocess.Popen(
        [sys.executable, "-c", AS_NOBODY, "start", "prefork.demo.app:app", "--port", "0", "--workers", "1"],
        cwd=home,
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert "serving" in process.stdout.readline()
        told = as_nobody("status", "--json", cwd=home)
        assert json.loads(told.stdout)["master"]["pid"] == process.pid
        assert list(home.iterdir()) == []
        done = as_nobody("stop", cwd=home)
        assert done.returncode == 0
        assert process.wait(10) == 0
    assert f" at {RUNTIME}/" in done.stdout
    assert (RUNTIME.stat().st_uid, stat.S_IMODE(RUNTIME.stat().st_mode)) == (NOBODY, 0o700)


def test_a_port_that_is_not_ours_is_named(home: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("this machine gives port 81 to everybody")
    os.chown(home, NOBODY, NOBODY)
    ended = as_nobody("start", "prefork.demo.app:app", "--listen", "127.0.0.1:81", cwd=home)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "127.0.0.1:81: no permission" in ended.stderr
    assert list(home.iterdir()) == []


def test_a_config_that_may_not_be_read_is_a_config_error(home: Path) -> None:
    (home / "server.toml").touch(mode=0o600)
    ended = as_nobody("start", "-c", "server.toml", cwd=home)
    assert ended.returncode == 2
    assert ended.stderr == "server.toml: cannot be read: permission denied\n"


def test_the_control_socket_is_its_owners_alone(home: Path) -> None:
    shutil.copytree(ROOT / "prefork" / "demo" / "static", home / "public")
    server = Server(home, '[[route]]\npath = "/"\nfiles = "public"\n')
    try:
        server.wait_ready()
        for name in ("status", "stop", "reload"):
            ended = as_nobody(name, cwd=home)
            assert ended.returncode == 1
            assert ended.stderr.count("\n") == 1
            assert "no permission" in ended.stderr
        (server.directory / "run/prefork.sock").chmod(0o666)
        ended = as_nobody("stop", cwd=home)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert server.get().status == 200
    finally:
        server.close()
