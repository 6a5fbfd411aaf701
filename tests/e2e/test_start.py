"""`prefork start`: what it prints, which processes and files there are while it serves, and what is left afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prefork.process.machine import cores
from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR, ROUTE, begin, connect, links, open_gate, pids
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, free_port

ENV = {**os.environ, "PYTHONPATH": str(ROOT)}
START = [sys.executable, "-m", "prefork", "start"]


def refuse(directory: Path, *args: str) -> str:
    """What a start that must fail says; it says it in one line, with exit status 1."""
    ended = subprocess.run([*START, *args], cwd=directory, env=ENV, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_start_prints_one_line_that_says_where_and_who(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    line = server.stdout
    assert re.fullmatch(r"prefork \S+ serving \S+ with 2 workers \(config \S+, pid \d+\); stop with .*\n", line), line
    assert f"http://127.0.0.1:{server.port}/" in line
    assert f"pid {server.process.pid})" in line
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert server.stdout == line


def test_there_is_one_worker_a_core_unless_told_otherwise_and_all_answer(serve: Serve) -> None:
    server = serve(ROUTE, {"app.py": APP})
    workers = pids(server)
    assert len(workers) == cores()
    seen: set[int] = set()

    def all_have_answered() -> bool:
        seen.add(int(server.get().body))
        return seen == workers

    eventually(all_have_answered, 10, what=lambda: f"an answer from each of {workers}, not only {seen}")


def test_each_worker_has_a_loop_of_its_own_and_goes_on_beside_a_stuck_call(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with_call = begin(server, "/wait")
    others = {int(server.get().body) for _ in range(20)}
    assert others <= pids(server)
    open_gate(server)
    assert with_call.getresponse().read() == b"done"
    with_call.close()
    for pid in pids(server):
        assert links(pid).count("anon_inode:[eventpoll]") == 1


def test_the_pid_file_holds_the_master_and_goes_with_it_and_so_does_its_directory(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    run = server.directory / "run"
    assert (run / "prefork.pid").read_text() == f"{server.process.pid}\n"
    assert {entry.name for entry in run.iterdir()} == {"prefork.pid", "prefork.sock"}
    assert (run / "prefork.sock").stat().st_mode & 0o777 == 0o600
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert not run.exists()


@pytest.mark.parametrize("kept", ["run/.keep", "run/notes.txt"])
def test_a_run_directory_that_was_there_stays(serve: Serve, kept: str) -> None:
    server = serve(CONFIG, {"app.py": APP, kept: ""})
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert [entry.name for entry in (server.directory / "run").iterdir()] == [Path(kept).name]


def test_a_run_directory_made_by_us_stays_where_someone_keeps_a_file_in_it(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "run/notes.txt").touch()
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert [entry.name for entry in (server.directory / "run").iterdir()] == ["notes.txt"]


def test_a_second_start_is_refused_and_the_first_is_unharmed(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    workers = pids(server)
    said = refuse(server.directory, "-c", "config/server.toml", "--listen", f"127.0.0.1:{free_port()}")
    assert str(server.process.pid) in said
    assert "run/prefork.pid" in said
    assert pids(server) == workers
    assert server.get().status == 200
    assert (server.directory / "run/prefork.pid").read_text() == f"{server.process.pid}\n"
    assert server.command("status").returncode == 0


def test_a_pid_file_left_by_a_killed_master_is_taken_over(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.process.kill()
    server.process.wait()
    eventually(lambda: not server.family(), what="the end of the orphaned workers")
    assert (server.directory / "run/prefork.pid").exists()
    assert (server.directory / "run/prefork.sock").exists()
    server.launch()
    server.wait_ready()
    assert server.get().status == 200
    assert (server.directory / "run/prefork.pid").read_text() == f"{server.process.pid}\n"


def test_a_stale_pid_file_is_taken_over_even_when_its_number_lives_again(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP, "run/prefork.pid": f"{os.getpid()}\nand more than fits\n"})
    assert (server.directory / "run/prefork.pid").read_text() == f"{server.process.pid}\n"
    assert psutil.pid_exists(os.getpid())


def test_an_address_in_use_is_named_and_nothing_is_left_behind(serve: Serve, tmp_path: Path) -> None:
    server = serve(CONFIG, {"app.py": APP})
    other = tmp_path / "other"
    other.mkdir()
    said = refuse(other, "prefork.demo.app:app", "--listen", f"127.0.0.1:{server.port}")
    assert f"127.0.0.1:{server.port}" in said
    assert list(other.iterdir()) == []
    assert server.get().status == 200


@pytest.mark.parametrize("key", ["pid_file", "control", "both"])
def test_a_server_without_a_pid_file_or_a_control_socket_serves_reloads_and_upgrades(serve: Serve, key: str) -> None:
    keys = ["pid_file", "control"] if key == "both" else [key]
    off = "".join(f'{name} = ""\n' for name in keys)
    server = serve(f"[master]\n{off}{CONFIG}", {"app.py": APP, "run/.keep": ""})
    left = {"prefork.pid", "prefork.sock"} - {{"pid_file": "prefork.pid", "control": "prefork.sock"}[k] for k in keys}
    assert {entry.name for entry in (server.directory / "run").glob("prefork*")} == left
    said = "`prefork stop`" if "control" not in keys else "SIGTERM"
    assert server.stdout.endswith(f"stop with Ctrl-C or {said}\n")
    server.signal(signal.SIGHUP)
    server.wait_log("reloaded: generation 2", 10)
    server.signal(signal.SIGUSR2)
    taken = server.wait_log(r"upgraded: master (\d+) .* has taken over", 15)
    assert server.wait_exit() == 0
    server.master = psutil.Process(int(taken[1]))
    assert server.get().status == 200


def test_a_control_socket_in_use_is_named_by_its_key_and_left_alone(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    (server.directory / "own.toml").write_text(f"[master]\npid_file = 'own.pid'\n{CONFIG}")
    said = refuse(server.directory, "-c", "own.toml", "--listen", "127.0.0.1:0")
    assert said == "prefork: master.control: another prefork answers at run/prefork.sock; give each its own\n"
    assert server.command("status").returncode == 0


def test_a_control_socket_that_cannot_be_made_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f"[master]\ncontrol = 'nowhere/own.sock'\n{ROUTE}")
    said = refuse(tmp_path, "-c", "own.toml", "--listen", "127.0.0.1:0")
    assert said.startswith("prefork: master.control: cannot listen on unix:")
    assert "its directory does not exist" in said


def test_the_command_that_stops_it_is_told_as_it_has_to_be_typed(tmp_path: Path) -> None:
    (tmp_path / "my site.toml").write_text(f'listen = ["127.0.0.1:0"]\n[master]\ncontrol = "own.sock"\n{ROUTE}')
    (tmp_path / "app.py").write_text(APP)
    args = ["-c", "my site.toml"]
    with subprocess.Popen([*START, *args], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().endswith("or `prefork stop -c 'my site.toml'`\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_start_with_too_few_descriptors_says_how_to_allow_more(tmp_path: Path) -> None:
    start = ["sh", "-c", 'ulimit -n 12; exec "$@"', "sh", *START, "prefork.demo.app:app", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(start, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (1, "")
    said = "prefork: Too many open files; allow more by `ulimit -n`, or LimitNOFILE of a service\n"
    assert ended.stderr == said


def test_what_others_read_from_the_environment_is_told_as_passed_over(tmp_path: Path) -> None:
    args = ["nowhere:app", "--listen", "127.0.0.1:0"]
    env = {**ENV, "PORT": "8080", "WEB_CONCURRENCY": "3"}
    ended = subprocess.run([*START, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20)
    said = "prefork: WEB_CONCURRENCY of the environment is not read: write --workers $WEB_CONCURRENCY"
    assert ended.stderr.splitlines()[0] == said
    assert ended.returncode == 1


def test_what_is_bound_before_an_address_in_use_is_released_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(CONFIG, {"app.py": APP})
    other = tmp_path / "other"
    other.mkdir()
    args = ["--listen", "unix:app.sock", "--listen", f"127.0.0.1:{server.port}"]
    assert str(server.port) in refuse(other, "prefork.demo.app:app", *args)
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("key", ["error", "access"])
def test_a_log_file_that_cannot_be_opened_is_named_and_nothing_is_left_behind(tmp_path: Path, key: str) -> None:
    (tmp_path / "here.log").mkdir()
    (tmp_path / "server.toml").write_text(f'[log]\n{key} = "here.log"\n{ROUTE}')
    assert "cannot open the log file here.log" in refuse(tmp_path, "-c", "server.toml")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here.log", "server.toml"]


def test_a_file_that_is_no_socket_is_never_taken_for_a_stale_one(tmp_path: Path) -> None:
    (tmp_path / "app.sock").write_text("precious")
    assert "unix:app.sock" in refuse(tmp_path, "prefork.demo.app:app", "--listen", "unix:app.sock")
    assert (tmp_path / "app.sock").read_text() == "precious"


def test_a_config_error_names_its_key_in_a_line_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(ROUTE.replace("wsgi", "wgsi"))
    start = [*START, "-c", "server.toml"]
    ended = subprocess.run(start, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == 'server.toml: route[0].wgsi: unknown key (did you mean "wsgi"?)\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.toml"]


def test_an_application_on_the_command_line_needs_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP)
    port = free_port()
    args = ["mine:app", "--workers", "3", "--listen", f"127.0.0.1:{port}", "--listen", "unix:app.sock"]
    with subprocess.Popen([*START, *args], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert f"serving http://127.0.0.1:{port}/, unix:app.sock with 3 workers (pid {process.pid})" in line
        assert len(psutil.Process(process.pid).children()) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not (tmp_path / "app.sock").exists()


def test_a_kernel_chosen_port_is_told_as_it_is(tmp_path: Path) -> None:
    args = ["prefork.demo.app:app", "--workers", "1", "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*START, *args], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        found = re.search(r"http://127\.0\.0\.1:(\d+)/ ", process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert found
    assert int(found[1]) > 0


def test_the_access_log_does_not_mix_with_what_start_prints(serve: Serve) -> None:
    server = serve(CONFIG.replace('access = ""', 'access = "-"'), {"app.py": APP})
    with_keep_alive = connect(server)
    with_keep_alive.request("GET", "/")
    assert with_keep_alive.getresponse().read()
    with_keep_alive.close()
    server.wait_log(r'"GET / HTTP/1\.1" 200')
    assert server.stdout.count("\n") == 1
