"""An upgrade, by USR2 and by `prefork upgrade`: a master of the new code takes over, or nothing has changed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefork.process.master import control, file_lock
from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, NEW, PAIR, Clients, answer, begin, links, listeners, open_gate, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, Server, free_port, is_alive, read_all

PACKAGE = ROOT / "prefork"
SLOW = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"

# what it was given, by way of a subprocess
LEAKS = """
import subprocess
import sys

LOOK = "import os; print(sorted(os.listdir('/proc/self/fd')), sorted(os.environ))"


def app(environ, start_response):
    start_response("200 OK", [])
    return [subprocess.run([sys.executable, "-c", LOOK], close_fds=False, capture_output=True).stdout]
"""


def pid_file(server: Server) -> int:
    return int((server.directory / "run/prefork.pid").read_text() or 0)


def follow(server: Server) -> psutil.Process:
    """The old master; from now on `server.master` is the new one."""
    old = server.master
    eventually(lambda: pid_file(server) not in (0, old.pid), 10, what=lambda: f"another pid\n{server.stderr}")
    server.master = psutil.Process(pid_file(server))
    return old


def upgrade(server: Server, *, gone: bool = True) -> psutil.Process:
    """By the command, which returns when the new master serves; the old one, which is `gone` by then, or soon."""
    done = server.command("upgrade")
    assert (done.returncode, done.stderr) == (0, ""), server.stderr
    old = follow(server)
    assert done.stdout.startswith(f"upgraded: master {server.master.pid} (prefork ")
    if gone:
        eventually(lambda: not is_alive(old), 10, what=lambda: f"the end of the old master\n{server.stderr}")
    return old


@pytest.mark.parametrize("by", ["signal", "command"])
def test_not_one_request_is_lost_by_two_upgrades_under_load(serve: Serve, by: str) -> None:
    server = serve(PAIR, {"app.py": APP})
    sockets = listeners(server.master.pid)
    with Clients(server) as clients:
        for _ in range(2):
            clients.wait_answers(50)
            if by == "signal":
                server.signal(signal.SIGUSR2)
                old = follow(server)
            else:
                old = upgrade(server, gone=False)
            eventually(lambda old=old: not is_alive(old), 10, what="the end of the old master")
            clients.wait_answers(50)
    assert server.wait_exit() == 0
    assert listeners(server.master.pid) == sockets
    assert status(server)["master"]["pid"] == server.master.pid
    assert len(pids(server)) == 2
    assert len(server.family()) == 3
    assert " error: " not in server.stderr


def test_the_new_master_is_of_the_new_code_and_one_that_cannot_be_imported_changes_nothing(serve: Serve) -> None:
    modules = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    package = {f"prefork/{path.relative_to(PACKAGE)}": path.read_bytes() for path in modules}
    server = serve(CONFIG, {"app.py": APP, **package})  # python -m looks into the current directory first
    module = server.directory / "prefork/runtime/loop.py"
    code = module.read_text()
    module.write_text("import a_module_that_is_gone\n")
    refused = ask(server, "upgrade")
    assert refused["ok"] is False
    assert re.fullmatch(r"the new master \d+ died while it booted: exit status 1", refused["message"])
    assert "No module named 'a_module_that_is_gone'" in refused["report"]
    assert "a_module_that_is_gone" in server.stderr
    assert server.get("/version").body == b"one"
    module.write_text(code)
    (server.directory / "prefork/__init__.py").write_text('__version__ = "99.0"\n')
    assert ask(server, "upgrade")["message"].endswith("(prefork 99.0) has taken over")
    follow(server)
    assert status(server)["version"] == "99.0"
    server.wait_exit()


def test_a_new_master_that_fails_changes_nothing_and_the_command_says_why(serve: Serve) -> None:
    good = f'listen = ["127.0.0.1:PORT", "unix:app.sock"]\n{CONFIG}'
    server = serve(good, {"app.py": APP})
    before, sockets = pids(server), listeners(server.master.pid)

    def refuse(because: str, config: str = good, code: str = APP) -> str:
        server.rewrite(config)
        (server.directory / "app.py").write_text(code)
        done = server.command("upgrade")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.search(f"^upgrade failed, so all stays as it was: {because}", done.stderr, re.MULTILINE), done.stderr
        eventually(lambda: {process.pid for process in server.family()} == {server.process.pid, *before})
        assert pid_file(server) == server.process.pid
        assert listeners(server.master.pid) == sockets
        assert server.get("/version").body == b"one"
        assert unix(server).endswith(b"one")
        return done.stderr

    refuse(r'config/server.toml: worker: unknown key \(did you mean "workers"', good.replace("[workers]", "[worker]"))
    assert "Traceback" in refuse(r"worker \d+ cannot boot: ZeroDivisionError", code="1 / 0")
    refuse(r"worker \d+ died while it booted: exit status 3", code="import os\nos._exit(3)")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        also = f'"127.0.0.1:{taken.getsockname()[1]}", "unix:new.sock"'
        refuse(r"cannot listen on 127\.0\.0\.1:\d+: something listens there", good.replace('"unix:app.sock"', also))
    hung = "import time\ntime.sleep(1000)"
    refuse(r"worker \d+ was not ready within 0.2 s", good.replace("[workers]", "[workers]\nboot_timeout = 0.2"), hung)
    moved = good.replace("[workers]", "[master]\npid_file = 'elsewhere/pid'\n[workers]")
    refuse(r"worker \d+ cannot boot", moved.replace('"unix:app.sock"', '"unix:new.sock"'), "1 / 0")
    assert not (server.directory / "elsewhere").exists()
    assert not (server.directory / "new.sock").exists()
    server.rewrite(good)
    (server.directory / "app.py").write_text(NEW)
    upgrade(server)
    assert (server.get("/version").body, unix(server)[-3:]) == (b"two", b"two")
    assert server.wait_exit() == 0


def test_addresses_and_files_that_have_changed_follow_and_the_old_ones_go(serve: Serve) -> None:
    other = free_port()
    server = serve(f'listen = ["127.0.0.1:PORT", "127.0.0.1:{other}", "unix:app.sock"]\n{CONFIG}', {"app.py": APP})
    (kept,) = listeners(server.master.pid) - {socket_of(other)}
    moved = "[master]\npid_file = 'new/prefork.pid'\ncontrol = 'new.sock'\n"
    server.rewrite(f'listen = ["127.0.0.1:PORT", "unix:b.sock"]\n{moved}{CONFIG}')
    assert ask(server, "upgrade")["ok"] is True
    old, server.master = server.master, psutil.Process(int((server.directory / "new/prefork.pid").read_text()))
    assert server.wait_exit() == 0
    assert not is_alive(old)
    assert listeners(server.master.pid) == {kept}
    assert [listeners(pid) for pid in pids(server)] == [{kept}]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other)).close()
    assert unix(server, "b.sock").endswith(b"one")
    assert not (server.directory / "app.sock").exists()
    assert not (server.directory / "run").exists()
    assert server.command("stop").returncode == 0
    assert sorted(path.name for path in server.directory.iterdir() if "log" not in path.name) == ["app.py", "config"]


def test_no_descriptor_is_left_over_and_none_reaches_a_process_of_the_application(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": LEAKS})
    told, ours = server.get().body, len(links(server.master.pid))
    for _ in range(2):
        old = upgrade(server)
        eventually(lambda: len(links(server.master.pid)) == ours, what=lambda: f"{links(server.master.pid)}")
        assert server.get().body == told
        assert not is_alive(old)
    with open(server.directory / "run/prefork.pid", "r+") as file, pytest.raises(BlockingIOError):
        file_lock.acquire(file)
    again = server.command("start", "--listen", "127.0.0.1:0")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"a master with pid {server.master.pid} runs with this pid file" in again.stderr


def test_requests_under_way_are_finished_by_the_old_workers_and_the_first_stop_of_the_old_master_waits(
    serve: Serve,
) -> None:
    server = serve(CONFIG, {"app.py": APP.replace('b"done"', "VERSION.encode()")})
    with_call = begin(server, "/wait")
    (server.directory / "app.py").write_text(NEW)
    old = upgrade(server, gone=False)
    assert server.get("/version").body == b"two"
    old.send_signal(signal.SIGUSR2)
    old.send_signal(signal.SIGHUP)
    old.send_signal(signal.SIGTERM)
    assert server.command("status").returncode == 0
    assert is_alive(old)
    open_gate(server)
    assert answer(with_call) == b"one"
    with_call.close()
    assert server.wait_exit() == 0
    assert server.get("/version").body == b"two"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_an_upgrade_stops_both_and_nothing_is_left(serve: Serve, number: signal.Signals) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "app.py").write_text(SLOW)
    moved = "[master]\npid_file = 'elsewhere/pid'\n"
    server.rewrite(f'listen = ["127.0.0.1:PORT", "unix:new.sock"]\n{moved}{CONFIG}')
    with subprocess.Popen(
        [sys.executable, "-m", "prefork", "upgrade"], cwd=server.directory, env=server.env, stderr=subprocess.PIPE
    ) as command:
        eventually((server.directory / "entered").exists, 10, what="the new application's import")
        assert (server.directory / "new.sock").exists()
        server.signal(number)
        said = command.communicate(timeout=10)[1]
    assert said == b"upgrade failed, so all stays as it was: the server is stopping\n"
    assert server.wait_exit() == 0
    assert not server.family()
    assert not [name for name in ("run", "elsewhere", "new.sock") if (server.directory / name).exists()]


def test_a_new_master_takes_over_from_one_that_is_killed_meanwhile(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "app.py").write_text(SLOW.replace('"one"', '"two"'))
    server.signal(signal.SIGUSR2)
    eventually((server.directory / "entered").exists, 10, what="the new application's import")
    server.process.kill()
    (server.directory / "go").touch()
    follow(server)
    eventually(lambda: server.get("/version").body == b"two", what="the new code")
    assert server.command("status").returncode == 0


def test_a_reload_that_is_asked_for_during_an_upgrade_is_told_whom_to_ask(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "app.py").write_text(SLOW)
    server.signal(signal.SIGUSR2)
    eventually((server.directory / "entered").exists, 10, what="the new application's import")
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as lines:
        client.connect(os.path.relpath(server.directory / "run/prefork.sock"))
        client.sendall(b'{"command": "reload"}\n')
        assert status(server)["ok"] is True  # who was before us has been heard
        (server.directory / "go").touch()
        said = json.loads(lines.readline())
    follow(server)
    assert said["ok"] is False
    assert said["message"].startswith(f"master {server.master.pid} ")
    assert said["message"].endswith(" has taken over meanwhile; ask again")
    assert server.wait_exit() == 0


def test_a_symlink_leads_the_new_master_to_the_new_directory(serve: Serve, tmp_path: Path) -> None:
    for name, code in (("one", APP), ("two", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text(code)
    (tmp_path / "current").symlink_to("one")
    files = {"prefork.pid": tmp_path / "prefork.pid", "control": tmp_path / "control"}
    config = tmp_path / "server.toml"
    port = free_port()
    config.write_text(
        f'listen = "127.0.0.1:{port}"\n[master]\npid_file = "{files["prefork.pid"]}"\n'
        f'control = "{files["control"]}"\n{CONFIG}'
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PWD": str(tmp_path / "current")}
    start = [sys.executable, "-m", "prefork", "start", "-c", str(config)]
    with subprocess.Popen(start, cwd=tmp_path / "current", env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "serving" in process.stdout.readline()
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("two")
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) == 0
    (new,) = (int(files["prefork.pid"].read_text()),)
    try:
        assert os.readlink(f"/proc/{new}/cwd") == str(tmp_path / "two")
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"two")
    finally:
        os.kill(new, signal.SIGTERM)
        eventually(lambda: not psutil.pid_exists(new) or not is_alive(psutil.Process(new)), 10)


def unix(server: Server, name: str = "app.sock") -> bytes:
    """What "/version" answers through a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.path.relpath(server.directory / name))
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        return read_all(client)


def socket_of(port: int) -> str:
    """The inode of what listens on `port`."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = (row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port)
    return f"socket:[{inode}]"


def ask(server: Server, command: str) -> dict[str, Any]:
    """The answer of the master, asked without the commands' own code."""
    reply, connection = control.ask(os.path.relpath(server.directory / "run/prefork.sock"), {"command": command})
    connection.close()
    return reply


def test_with_reuse_port_the_socket_of_each_worker_is_handed_over(serve: Serve) -> None:
    config = 'listen = [{ address = "127.0.0.1:PORT", reuse_port = true }]\n' + PAIR
    server = serve(config, {"app.py": APP})
    before = listeners(server.master.pid)
    with Clients(server) as clients:
        upgrade(server)
        clients.wait_answers(30)
    assert listeners(server.master.pid) == before
    assert sorted(len(listeners(pid)) for pid in pids(server)) == [1, 1]
