"""A reload, by HUP and by `prefork reload`: what is new takes effect, what stays is kept, and no request is lost."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from tests.conftest import eventually
from tests.e2e.apps import (
    APP,
    CONFIG,
    NEW,
    PAIR,
    ROUTE,
    Clients,
    answer,
    begin,
    listeners,
    open_gate,
    pids,
    status,
    wait_generation,
)
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, free_port


def reload(server: Server) -> None:
    """By the command, which returns when the new generation serves."""
    done = server.command("reload")
    assert done.returncode == 0, done.stderr
    assert "reloaded" in done.stdout


def test_hup_brings_new_code(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    before = pids(server)
    (server.directory / "app.py").write_text(NEW)
    assert server.get("/version").body == b"one"
    server.signal(signal.SIGHUP)
    wait_generation(server, 2, workers=2)
    assert {server.get("/version").body for _ in range(10)} == {b"two"}
    assert not pids(server) & before
    assert status(server)["last_reload"]["ok"] is True
    assert server.process.poll() is None


def test_the_command_returns_when_the_new_code_serves(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    (server.directory / "app.py").write_text(NEW)
    reload(server)
    # the old workers may still finish what they have, but they take nobody new
    wait_generation(server, 2, workers=2)
    assert {server.get("/version").body for _ in range(10)} == {b"two"}


def test_new_settings_take_effect_workers_routes_and_logs(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    server.rewrite(
        '[workers]\ncount = 3\n[log]\nerror = "error.log"\naccess = "access.log"\n'
        '[[route]]\npath = "/"\nrespond = { body = "fixed" }\n'
    )
    reload(server)
    wait_generation(server, 2, workers=3)
    assert server.get().body == b"fixed"
    eventually(lambda: "GET / HTTP/1.1" in (server.directory / "access.log").read_text())
    assert "generation 2 serves with 3 workers" in (server.directory / "error.log").read_text()
    server.rewrite(CONFIG)
    reload(server)
    wait_generation(server, 3, workers=1)
    assert server.get("/version").body == b"one"


def test_an_address_added_opens_one_removed_closes_and_the_rest_keep_their_sockets(serve: Serve) -> None:
    other = free_port()
    with_both = f'listen = ["127.0.0.1:PORT", "127.0.0.1:{other}", "unix:app.sock"]\n{PAIR}'
    server = serve(PAIR, {"app.py": APP})
    (kept,) = listeners(server.process.pid)
    server.rewrite(with_both)
    reload(server)
    wait_generation(server, 2, workers=2)
    assert kept in listeners(server.process.pid)
    socket.create_connection(("127.0.0.1", other)).close()
    assert (server.directory / "app.sock").exists()
    server.rewrite(PAIR)
    reload(server)
    wait_generation(server, 3, workers=2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other)).close()
    assert not (server.directory / "app.sock").exists()
    assert listeners(server.process.pid) == {kept}
    for pid in pids(server):
        assert listeners(pid) == {kept}
    server.rewrite(with_both)  # and once more: nothing of the old sockets may be in the way
    reload(server)
    wait_generation(server, 4, workers=2)
    assert server.get().status == 200


def test_a_kernel_chosen_port_stays_the_same(serve: Serve) -> None:
    server = serve(f'listen = ["127.0.0.1:PORT", "127.0.0.1:0"]\n{CONFIG}', {"app.py": APP})
    before = listeners(server.process.pid)
    assert len(before) == 2
    reload(server)
    assert listeners(server.process.pid) == before


def test_a_request_under_way_is_finished_by_the_worker_that_began_it(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP.replace('b"done"', "VERSION.encode()")})
    with_call = begin(server, "/wait")
    (server.directory / "app.py").write_text(NEW)
    reload(server)
    assert server.get("/version").body == b"two"
    open_gate(server)
    assert answer(with_call) == b"one"
    with_call.close()
    wait_generation(server, 2, workers=1)


def test_many_hups_are_granted_by_few_reloads(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    for _ in range(100):
        server.signal(signal.SIGHUP)
    (server.directory / "app.py").write_text(NEW)
    server.signal(signal.SIGHUP)  # this one must not be taken for one of those that began before the edit
    eventually(lambda: server.get("/version").body == b"two", 10, what="the new code")
    last = eventually(lambda: len(pids(server)) == 1 and status(server)["master"]["generation"], 10)
    assert last < 20


def test_hup_while_the_first_generation_boots_is_granted_afterwards(serve: Serve) -> None:
    slow = f"import os, time\nopen('entered', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n{APP}"
    server = serve(CONFIG, {"app.py": slow}, wait=False)
    eventually((server.directory / "entered").exists, 10, what="the application's import")
    server.signal(signal.SIGHUP)
    (server.directory / "app.py").write_text(NEW)
    (server.directory / "go").touch()
    server.wait_ready()
    wait_generation(server, 2, workers=1)
    assert server.get("/version").body == b"two"


def test_two_reload_commands_at_once_are_both_granted(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    codes: list[int] = []
    commands = [threading.Thread(target=lambda: codes.append(server.command("reload").returncode)) for _ in range(3)]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert codes == [0, 0, 0]


def test_an_application_that_logs_by_dictconfig_does_not_silence_the_server(serve: Serve) -> None:
    source = f"""
import logging.config
logging.config.dictConfig({{"version": 1, "root": {{"level": "CRITICAL"}}}})
{APP}
"""
    server = serve(CONFIG, {"app.py": source})
    (worker,) = server.workers()
    worker.send_signal(signal.SIGTERM)
    server.wait_log(rf"worker {worker.pid} died: exit status 0")


@pytest.mark.parametrize("event_loop", ["auto", "poll"])
def test_not_one_request_is_lost_by_reloads_under_load(serve: Serve, event_loop: str) -> None:
    server = serve(PAIR.replace("[log]", f'event_loop = "{event_loop}"\n[log]'), {"app.py": APP})
    with Clients(server) as clients:
        for number in range(2, 6):
            server.signal(signal.SIGHUP)
            wait_generation(server, number, workers=2)
            clients.wait_answers(50)


def test_reloads_leave_no_descriptor_and_no_slot_behind(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})

    def count() -> int:
        return sum(process.num_fds() for process in (server.master, *server.workers()))

    wait_generation(server, 1, workers=2)
    before = count()
    for number in range(2, 6):
        server.signal(signal.SIGHUP)
        wait_generation(server, number, workers=2)
        server.wait_log(rf"generation {number - 1} has left")
    eventually(lambda: count() <= before, what=lambda: f"{before} descriptors, not {count()}")
    assert {worker["slot"] for worker in status(server)["workers"]} <= {1, 2, 3, 4}


def test_what_has_changed_in_master_waits_for_the_next_start(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.rewrite(f'[master]\npid_file = "run/other.pid"\n{ROUTE}')
    reload(server)
    server.wait_log(r"warning: \[master\] has changed")
    assert not (server.directory / "run/other.pid").exists()
    assert (server.directory / "run/prefork.pid").exists()
