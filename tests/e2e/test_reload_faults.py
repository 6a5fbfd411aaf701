"""Reloads without end, half-written configurations, a full disk: service goes on, and the server grows by nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, ROUTE, Clients, command, pids, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

FILES = {"app.py": APP, "run/kept": ""}
TINY = '[[route]]\npath = "/version"\nrespond = { body = "one" }\n'


def reload(server: Server) -> None:
    done = command(server, "reload")
    assert done["ok"], done


def test_a_hundred_reloads_under_load_lose_no_request_and_leave_nothing_behind(serve: Serve) -> None:
    server = serve(CONFIG.replace(ROUTE, TINY).replace("probation = 0.1", "probation = 0"))

    def at_rest(generation: int) -> tuple[int, int]:
        """How many descriptors and bytes the master has when it has come to rest."""
        wait_generation(server, generation, workers=1, within=20)
        return server.master.num_fds(), server.master.memory_info().rss

    with Clients(server) as clients:
        for _ in range(20):
            reload(server)
        descriptors, memory = at_rest(21)
        for _ in range(80):
            reload(server)
        clients.wait_answers(20)
    _, grown = at_rest(101)
    assert grown - memory < 1 << 20, f"{(grown - memory) / 2**20:.2f} MiB"
    eventually(lambda: server.master.num_fds() <= descriptors, what=f"no more than {descriptors} descriptors")
    assert len(pids(server)) == 1
    assert " error: " not in server.stderr


def test_fifty_hups_in_a_second_are_granted_by_few_reloads_and_lose_no_request(serve: Serve) -> None:
    server = serve(PAIR.replace(ROUTE, TINY))
    with Clients(server) as clients:
        for _ in range(50):
            server.signal(signal.SIGHUP)
            clients.wait_answers(2)
        clients.wait_answers(20)
    reload(server)
    assert 2 < status(server)["master"]["generation"] <= 52
    wait_generation(server, status(server)["master"]["generation"], workers=2)
    assert " error: " not in server.stderr


def test_a_config_that_is_half_written_at_a_hup_changes_nothing(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    whole = server.config.read_text()
    before = pids(server)
    cuts = [at for at in range(0, len(whole), 9) if not complete(whole[:at], whole)]
    for cut in cuts:
        server.config.write_text(whole[:cut])
        assert command(server, "reload")["ok"] is False, whole[:cut]
    server.config.write_bytes(b"\xff\xfe" + whole.encode())
    assert "expected UTF-8" in command(server, "reload")["message"]
    server.config.unlink()
    server.config.mkdir()
    assert "cannot be read: is a directory" in command(server, "reload")["message"]
    server.config.rmdir()
    server.config.symlink_to(server.config.name)
    assert "cannot be read: too many levels of symbolic links" in command(server, "reload")["message"]
    server.config.unlink()
    assert "no such file" in command(server, "reload")["message"]
    assert pids(server) == before
    assert server.get("/version").body == b"one"
    server.config.write_text(whole)
    reload(server)


def complete(part: str, whole: str) -> bool:
    """Whether nothing but blanks is missing."""
    return part.rstrip() == whole.rstrip()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on it; the file that does."""
    ballast = disk / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(512))
    except OSError:
        return ballast
    finally:
        os.close(file)


def test_a_full_disk_stops_neither_service_nor_reloads_and_what_the_logs_lost_is_told(disk: Path, serve: Serve) -> None:
    logs = '[log]\nerror = "disk/error.log"\naccess = "disk/access.log"\n'
    server = serve(f'[master]\npid_file = "disk/run.pid"\n[workers]\ncount = 1\n{logs}{ROUTE}', FILES)
    assert server.get("/version").body == b"one"
    eventually(lambda: "GET /version" in (disk / "access.log").read_text())
    ballast = fill(disk)
    for _ in range(100):  # more than what is left of the log's last page
        assert server.get("/version").body == b"one"
    eventually(lambda: status(server)["totals"]["lost_lines"]["access"], what="lines that are lost")
    ballast.unlink()
    eventually(
        lambda: server.get("/version").status == 200 and "lost (No space left on device)" in read(disk / "access.log"),
        what="the word that lines were lost",
    )
    ballast = fill(disk)
    reload(server)
    wait_generation(server, 2, workers=1)
    assert server.get("/version").body == b"one"
    ballast.unlink()
    (worker,) = pids(server)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: f"worker {worker} died: SIGKILL" in read(disk / "error.log"), what="the log at work again")
    assert (disk / "run.pid").read_text() == f"{server.master.pid}\n"


def read(path: Path) -> str:
    return path.read_text(errors="replace")


def test_a_pid_file_for_which_there_is_no_room_is_named_and_nothing_is_left(disk: Path, serve: Serve) -> None:
    fill(disk)
    server = serve(f'[master]\npid_file = "disk/run.pid"\n{CONFIG}', FILES, wait=False)
    assert server.wait_exit() == 1
    assert "disk/run.pid: cannot write this pid file: No space left on device" in server.stderr
    assert not (disk / "run.pid").exists()
    assert os.listdir(server.directory / "run") == ["kept"]
