"""The commands against a running server, and without one: what they print, how they exit, what they wait for."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from prefork import __version__
from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, ROUTE, answer, begin, open_gate, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, Server, is_alive

FIGURES = {"accepted", "connections", "requests", "responses", "sent", "takeovers", "queued", "repeats", "file_cache"}
FIGURES |= {"inline", "handed_over", "lost_lines"}
OF_WORKER = {"busy", "slot", "pid", "generation", "state", "started", "age", "cpu", "memory", "answers", "longest"}


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(PAIR, {"app.py": APP})


def run(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefork", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("name", ["reload", "stop", "reopen", "status"])
def test_a_command_without_a_server_says_so_in_a_line_and_exits_1(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "run/prefork.sock" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trap", ["config/server.toml", "run/prefork.pid"])
def test_a_command_waits_for_nothing_that_lies_in_a_directory(tmp_path: Path, trap: str) -> None:
    (tmp_path / trap).parent.mkdir()
    os.mkfifo(tmp_path / trap)
    if trap != "config/server.toml":
        (tmp_path / "config").mkdir()
        (tmp_path / "config/server.toml").touch()
    done = run(tmp_path, "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no prefork answers at run/prefork.sock" in done.stderr


@pytest.mark.parametrize(
    "reply", [b'{"ok": true}', b'{"ok": true, "master": []}', b'{"ok": true, "master": {"pid": "x"}}']
)
def test_a_command_that_another_program_answers_says_so_in_a_line(tmp_path: Path, reply: bytes) -> None:
    (tmp_path / "run").mkdir()

    def answer_all(listener: socket.socket) -> None:
        with suppress(OSError):  # when it is shut down
            while True:
                with listener.accept()[0] as client:
                    if client.recv(65536):
                        client.sendall(reply + b"\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "run/prefork.sock"))
        listener.listen()
        answering = threading.Thread(target=answer_all, args=[listener])
        answering.start()
        done = run(tmp_path, "status")
        listener.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "run/prefork.sock" in done.stderr


def test_a_command_to_a_server_that_was_killed_says_so_in_a_line_and_exits_1(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), what="the end of the workers")
    done = server.command("status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_status_as_json_has_all_figures(server: Server) -> None:
    server.get("/version")
    done = server.command("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["version"] == __version__
    master = told["master"]
    assert master["pid"] == server.process.pid
    assert abs(time.time() - master["started"]) < 600
    assert master["config"] == "config/server.toml"
    assert master["listen"] == [f"127.0.0.1:{server.port}"]
    assert master["workers"] == 2
    assert master["started"] <= master["loaded"] <= time.time()
    assert told["ready"] is True
    assert told["totals"].keys() == FIGURES
    assert told["totals"]["requests"] >= 1
    assert {worker["pid"] for worker in told["workers"]} == pids(server)
    for worker in told["workers"]:
        assert worker.keys() == FIGURES | OF_WORKER
        assert (worker["answers"], worker["longest"]) == (True, None)
        assert worker["state"] == "serving"
        assert worker["memory"] > 1 << 20
        assert 0 <= worker["age"] < 600


def test_status_for_people_shows_the_master_and_each_worker_in_a_line(server: Server) -> None:
    done = server.command("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"master {server.process.pid} since " in done.stdout
    assert f"127.0.0.1:{server.port}" in done.stdout
    for pid in pids(server):
        assert sum(line.split()[:1] == [str(pid)] for line in done.stdout.splitlines()) == 1


@pytest.mark.parametrize("args", [["status"], ["status", "--json"]])
def test_status_into_a_pipe_that_nobody_reads_ends_quietly(server: Server, args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody:
        command = [sys.executable, "-m", "prefork", *args]
        done = subprocess.run(
            command, cwd=server.directory, env=server.env, stdout=nobody, stderr=subprocess.PIPE, timeout=20
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["schema", "version"])  # more than is buffered, and less
def test_what_cannot_be_printed_is_told_in_a_line(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "prefork", name]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=tmp_path, env=env, stdout=full, stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stderr) == (1, b"prefork: No space left on device\n")


def test_reopen_says_that_it_has(server: Server) -> None:
    done = server.command("reopen")
    assert (done.returncode, done.stdout, done.stderr) == (0, "log files reopened\n", "")


def test_commands_find_the_server_while_its_config_is_broken(server: Server) -> None:
    server.config.write_text("[[route\n")
    assert server.command("status").returncode == 0
    assert server.command("reopen").returncode == 0
    failed = server.command("reload")
    assert failed.returncode == 1
    assert "config/server.toml: line 1" in failed.stderr
    server.config.write_text(ROUTE.replace("wsgi", "wgsi"))
    assert "wgsi" in server.command("reload").stderr
    server.config.unlink()
    assert server.command("status").returncode == 0
    assert "config/server.toml: no such file" in server.command("reload").stderr
    server.rewrite(PAIR)


def test_commands_find_a_control_socket_that_is_elsewhere_even_while_the_config_is_broken(serve: Serve) -> None:
    elsewhere = f"[master]\ncontrol = 'elsewhere.sock'\n{CONFIG}".encode()
    server = serve(elsewhere.decode(), {"app.py": APP})
    assert not (server.directory / "run/prefork.sock").exists()
    assert server.command("status").returncode == 0
    for broken, wrong in (
        (elsewhere + b"broken = [\n", "line"),
        (b"# caf\xe9\n" + elsewhere, "line 1: expected UTF-8"),
        (elsewhere + b"[tables]\n", "tables: unknown key"),
    ):
        server.config.write_bytes(broken)
        failed = server.command("reload")
        assert failed.returncode == 1
        assert f"reload failed, so all stays as it was: config/server.toml: {wrong}" in failed.stderr


FILE = "[master]\ncontrol = 'elsewhere.sock'\n" + ROUTE


@contextmanager
def quick(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """`prefork app:app`, on a port of its own."""
    command = [sys.executable, "-m", "prefork", "app:app", "--port", "0", "-w", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert "serving" in process.stdout.readline()
            yield process
        finally:
            process.terminate()


@contextmanager
def started(directory: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """`prefork start ARGS`, on a port of its own, in a directory with an application and config/server.toml."""
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config/server.toml").write_text(FILE)
    (directory / "app.py").write_text(APP)
    command = [sys.executable, "-m", "prefork", "start", *args, "--listen", "127.0.0.1:0", "--workers", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=directory, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert "serving" in process.stdout.readline()
            yield process
        finally:
            process.terminate()


def test_commands_find_the_server_of_an_application_beside_a_file_of_which_it_takes_no_notice(tmp_path: Path) -> None:
    with started(tmp_path, "app:app") as process:
        told = run(tmp_path, "status", "--json")
        assert json.loads(told.stdout)["master"]["pid"] == process.pid
        note = "prefork: no prefork answers at elsewhere.sock (config/server.toml); asking the one at "
        assert told.stderr.startswith(note)
        path = told.stderr.removeprefix(note).strip()
        assert run(tmp_path, "reload").returncode == 0
        done = run(tmp_path, "stop")
        assert (done.returncode, done.stdout) == (0, f"stopped: master {process.pid} at {path} is gone\n")
        assert process.wait(10) == 0


def test_a_server_of_an_application_leaves_its_directory_alone_and_is_found_there_and_only_there(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "app.py").write_text(APP)
    with quick(here) as process:
        assert [entry.name for entry in here.iterdir()] == ["app.py"]
        assert json.loads(run(here, "status", "--json").stdout)["master"]["pid"] == process.pid
        lost = run(there, "stop")
        assert (lost.returncode, lost.stdout) == (1, "")
        assert "none was started here without a file" in lost.stderr
        (port,) = json.loads(run(here, "status", "--json").stdout)["master"]["serving"]
        assert run(there, "reload", "--listen", port).returncode == 0
        before = process.pid
        assert run(here, "upgrade").returncode == 0
        assert process.wait(10) == 0
        master = json.loads(run(here, "status", "--json").stdout)["master"]
        assert (master["pid"] != before, master["serving"]) == (True, [port])
        assert run(here, "stop").returncode == 0
    assert run(here, "status").returncode == 1


def test_two_servers_of_one_directory_are_told_apart_by_their_addresses(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with quick(tmp_path) as one, quick(tmp_path) as other:
        asked = run(tmp_path, "stop")
        assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)
        assert asked.stderr.startswith("prefork: 2 servers run here without a file: ")
        listed = dict(re.findall(r"127\.0\.0\.1:(\d+) \(pid (\d+)\)", asked.stderr))
        assert sorted(map(int, listed.values())) == sorted([one.pid, other.pid])
        port = next(port for port, pid in listed.items() if int(pid) == other.pid)
        assert run(tmp_path, "stop", "--port", port).returncode == 0
        assert other.wait(10) == 0
        assert one.poll() is None
        assert json.loads(run(tmp_path, "status", "--json").stdout)["master"]["pid"] == one.pid


def test_stop_means_the_server_of_the_file_where_there_are_both(tmp_path: Path) -> None:
    with started(tmp_path, "app:app") as other:
        (tmp_path / "own.toml").write_text(FILE.replace("[master]", "[master]\npid_file = 'elsewhere.pid'"))
        with started(tmp_path, "-c", "own.toml") as process:
            done = run(tmp_path, "stop")
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"stopped: master {process.pid} at elsewhere.sock is gone\n"
        assert other.poll() is None


def test_no_command_goes_to_the_server_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(ROUTE)
    with started(tmp_path, "-c", "other.toml") as process:
        for args in ([], ["-c", "config/server.toml"]):
            done = run(tmp_path, "stop", *args)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("prefork: no prefork answers at elsewhere.sock: ")
        assert process.poll() is None


def test_a_config_that_does_not_exist_is_a_config_error(tmp_path: Path) -> None:
    done = run(tmp_path, "status", "-c", "nowhere.toml")
    assert done.returncode == 2
    assert done.stderr == "nowhere.toml: no such file\n"


@pytest.mark.parametrize("args", [[], ["--now"]])
def test_stop_returns_when_the_master_and_its_files_are_gone(serve: Serve, args: list[str]) -> None:
    server = serve(CONFIG, {"app.py": APP})
    started = time.monotonic()
    done = server.command("stop", *args)  # nobody reaps the master meanwhile: it is a zombie, and that is gone enough
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"stopped: master {server.process.pid} at run/prefork.sock is gone\n"
    assert not is_alive(server.master)
    assert time.monotonic() - started < 4
    assert not (server.directory / "run").exists()
    assert server.wait_exit() == 0


def test_stop_waits_for_the_request_under_way(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with_call = begin(server, "/wait")
    with subprocess.Popen(
        [sys.executable, "-m", "prefork", "stop"], cwd=server.directory, env=server.env, stdout=subprocess.PIPE
    ) as stop:
        server.wait_log("stopping: the workers finish")
        assert stop.poll() is None
        open_gate(server)
        assert answer(with_call) == b"done"
        with_call.close()
        assert stop.wait(10) == 0
    assert not is_alive(server.master)


def test_stop_now_does_not_wait_for_the_request_under_way(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with server.connect() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n01234")
        eventually(lambda: status(server)["totals"]["connections"] == 1)
        assert server.command("stop", "--now").returncode == 0
    assert server.wait_exit() == 0


@contextmanager
def reload_in_mid_import(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """`prefork reload`, under way: the new application, whose import makes the file "entered", is being imported."""
    with subprocess.Popen(
        [sys.executable, "-m", "prefork", "reload"], cwd=server.directory, env=server.env, stderr=subprocess.PIPE
    ) as command:
        eventually((server.directory / "entered").exists, 10, what="the new application's import")
        yield command


def test_a_reload_that_a_stop_cuts_short_says_so(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "app.py").write_text("import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n")
    with reload_in_mid_import(server) as command:
        server.signal(signal.SIGTERM)
        said = command.communicate(timeout=10)[1]
    assert said == b"reload failed, so all stays as it was: the server is stopping\n"
    assert command.returncode == 1
    assert server.wait_exit() == 0


def test_a_command_that_is_interrupted_ends_quietly_and_the_server_goes_on(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    slow = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"
    (server.directory / "app.py").write_text(slow)
    with reload_in_mid_import(server) as command:
        command.send_signal(signal.SIGINT)
        said = command.communicate(timeout=10)[1]
    assert said == b""
    assert command.returncode != 0
    (server.directory / "go").touch()
    server.wait_log("generation 1 has left", 10)
    assert server.get().status == 200


def test_version_needs_no_server(tmp_path: Path) -> None:
    done = run(tmp_path, "version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"prefork {__version__}\n", "")


def test_a_wrong_command_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, "strat")
    assert done.returncode == 2
    assert "usage: prefork" in done.stderr


def test_the_master_shows_no_trace_of_the_commands(server: Server) -> None:
    assert psutil.Process(server.process.pid).is_running()
    assert "crashed" not in server.stderr
