"""Who holds which descriptor: a lock, a lifeline or a listener in the wrong process keeps the right one from ending."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from prefork.process.master import file_lock
from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, links, pids, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, suspend

pytestmark = pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="only Linux shows descriptors in /proc")

LOGS = f'listen = ["127.0.0.1:PORT", "unix:app.sock"]\n{PAIR}'.replace(
    'access = ""', 'error = "error.log"\naccess = "access.log"'
)


def kinds(pid: int) -> list[str]:
    """The kinds of all descriptors of a process, sorted: "eventpoll", "pipe r", "directory", or a file's name."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            kind = re.sub(r"^anon_inode:\[(\w+)\]$|:\[\d+\]$", r"\1", os.readlink(entry)).rpartition("/")[2]
            if entry.is_dir():
                kind = "directory"
            if kind == "pipe":
                flags = int(re.findall(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text())[0], 8)
                kind += " w" if flags & os.O_ACCMODE == os.O_WRONLY else " r"
            found.append(kind)
    return sorted(found)


# the streams, the logs, the loop, its wakeup pipe, the reading end of the lifeline, the two listeners
STREAMS = ("null", "stdout.log", "stderr.log")
BOTH = (*STREAMS, "error.log", "access.log", "eventpoll", "pipe r", "pipe w", "pipe r", "socket", "socket")
# what Python keeps for each mapping of memory before 3.13: it leads nowhere
MAPPING = ("null",) if sys.version_info < (3, 13) else ()
# besides those: the pipe by which its threads wake the loop, the line to the master, and the scoreboard, mapped twice
# to read and once to write
WORKER = sorted([*BOTH, "pipe r", "pipe w", "socket", *MAPPING * 3])
# besides those: the lifeline's writing end, two workers' lines, lock, control socket, the generation's directory, and
# the scoreboard, of which workers have a descriptor to read by and one to write their page by until they have mapped it
MEMORY = ("memfd:prefork (deleted)",)
OWN = ("pipe w", "socket", "socket", "prefork.pid", "socket", "directory")
MASTER = sorted([*BOTH, *OWN, *MEMORY * 3, *MAPPING * 2])


def see(server: Server) -> None:
    eventually(lambda: kinds(server.process.pid) == MASTER, what=lambda: f"{MASTER}\nnot {kinds(server.process.pid)}")
    for pid in pids(server):
        eventually(lambda pid=pid: kinds(pid) == WORKER, what=lambda pid=pid: f"{WORKER}\nnot {kinds(pid)}")


def test_master_and_workers_hold_what_they_need_and_nothing_else(serve: Serve) -> None:
    see(serve(LOGS, {"app.py": APP}))


def test_that_is_so_after_a_reload_a_failed_one_and_a_replacement_too(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP})
    assert server.command("reload").returncode == 0
    wait_generation(server, 2, workers=2)
    (server.directory / "app.py").write_text("1 / 0")
    assert server.command("reload").returncode == 1
    (server.directory / "app.py").write_text(APP)
    before = pids(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(pids(server) - before) == 2, what="two new workers")
    see(server)


def test_a_worker_forked_while_another_generation_boots_holds_nothing_of_that(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP})
    slow = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"
    (server.directory / "slow.py").write_text(slow)
    old = pids(server)
    with_more = LOGS.replace('"unix:app.sock"', '"unix:app.sock", "unix:other.sock"').replace("app:app", "slow:app")
    server.rewrite(with_more.replace("error.log", "other.log"))
    server.signal(signal.SIGHUP)
    eventually((server.directory / "entered").exists, what="the new application's import")
    victim = min(old)
    os.kill(victim, signal.SIGKILL)
    server_log = server.directory / "error.log"
    eventually(lambda: f"worker {victim} died: SIGKILL" in server_log.read_text())
    eventually(lambda: [pid for pid in pids(server) - old if kinds(pid) == WORKER], what="its replacement")
    (server.directory / "go").touch()
    wait_generation(server, 2, workers=2)


def test_a_worker_forked_while_someone_talks_to_the_master_holds_nothing_of_that(serve: Serve) -> None:
    server = serve(LOGS, {"app.py": APP})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, client.makefile("rb") as lines:
        client.connect(os.path.relpath(server.directory / "run/prefork.sock"))
        client.sendall(b'{"command": "reload"}\n')
        assert b"generation 2" in lines.readline()
        wait_generation(server, 2, workers=2)
        assert [kinds(pid) for pid in pids(server)] == [WORKER, WORKER]
    see(server)


def test_only_the_master_holds_the_lock_of_the_pid_file(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    path = server.directory / "run/prefork.pid"
    with open(path, "r+") as file:
        with pytest.raises(BlockingIOError):
            file_lock.acquire(file)
        for worker in server.workers():
            suspend(worker)
        server.process.kill()
        server.process.wait()
        file_lock.acquire(file)  # though the workers are still there
    orphans = [process for process in server.family() if str(path) not in links(process.pid)]
    assert len(orphans) == 2
    for worker in orphans:
        worker.resume()
    eventually(lambda: not server.family(), what="the end of the orphans")
