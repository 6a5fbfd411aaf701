"""Stopping: what is under way is finished, whoever waits is answered, and it comes to an end, by itself or by force."""

from __future__ import annotations

import signal
import socket
from http.client import HTTPConnection, HTTPException
from time import monotonic

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, NEW, PAIR, answer, begin, connect, open_gate, pids, states
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all, suspend

UPLOAD = b"POST /body HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n"
ATEXIT = f"""
import atexit
atexit.register(lambda: open(f"left-{{os.getpid()}}", "w").close())
{APP}
"""


def begin_upload(server: Server) -> socket.socket:
    """A connection on which a request body has begun to arrive, and the worker, which is idle meanwhile, knows."""
    connection = server.connect()
    connection.sendall(UPLOAD + b"01234")
    return connection


def wait_draining(server: Server) -> None:
    """Until all workers have obeyed. The status says so once they are told, but they close their listeners last."""
    eventually(lambda: set(states(server)) == {"draining"} and refuses(server), what="the drain")


def refuses(server: Server) -> bool:
    try:
        server.connect().close()
    except OSError:
        return True
    return False


def request(connection: HTTPConnection, path: str = "/version") -> tuple[bytes, str | None]:
    """One request on a kept connection: the body, and what the Connection field says."""
    connection.request("GET", path)
    response = connection.getresponse()
    return response.read(), response.headers["Connection"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize(("path", "body"), [("/wait", b"done"), ("/stream", b"first, last")])
def test_a_request_that_the_application_works_on_is_finished(
    serve: Serve, number: signal.Signals, path: str, body: bytes
) -> None:
    server = serve(PAIR, {"app.py": APP})
    with_call = begin(server, path)
    server.signal(number)
    server.wait_log("stopping: the workers finish the requests under way")
    assert len(server.family()) >= 2
    open_gate(server)
    assert answer(with_call) == body
    with_call.close()
    assert server.wait_exit() == 0
    assert not (server.directory / "run").exists()


def test_a_request_whose_body_still_arrives_is_finished_and_told_that_it_is_the_last(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with begin_upload(server) as connection:
        eventually(lambda: states(server) == ["serving"])
        server.signal(signal.SIGTERM)
        wait_draining(server)
        connection.sendall(b"56789")
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close" in head
    assert body == b"0123456789"
    assert server.wait_exit() == 0


def test_an_idle_connection_is_answered_once_more_in_its_lame_duck_second(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    connection = connect(server)
    assert request(connection) == (b"one", "keep-alive")
    server.signal(signal.SIGTERM)
    wait_draining(server)
    assert request(connection) == (b"one", "close")
    assert server.wait_exit() == 0
    connection.close()


def test_clients_that_keep_their_connections_open_do_not_hold_up_the_end(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    idle = connect(server)
    request(idle)
    busy = begin(server, "/stream")
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    open_gate(server)
    assert server.wait_exit() == 0
    assert answer(busy) == b"first, last"
    for connection in (idle, busy):
        connection.close()


def test_a_request_sent_in_the_very_moment_of_the_stop_is_answered(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    connection = connect(server)
    request(connection)
    (worker,) = server.workers()
    suspend(worker)
    try:
        connection.request("GET", "/version")
        server.signal(signal.SIGTERM)
        server.wait_log("stopping")
    finally:
        worker.resume()
    assert answer(connection) == b"one"
    connection.close()
    assert server.wait_exit() == 0


def test_clients_in_the_accept_queue_are_answered(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with_call = begin(server, "/wait")
    waiting = [connect(server) for _ in range(20)]
    for connection in waiting:
        connection.request("GET", "/version")
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    open_gate(server)
    assert answer(with_call) == b"done"
    assert [answer(connection) for connection in waiting] == [b"one"] * 20
    for connection in (with_call, *waiting):
        connection.close()
    assert server.wait_exit() == 0


def test_who_comes_after_the_stop_is_refused_at_once_and_not_left_waiting(serve: Serve) -> None:
    server = serve(f'listen = ["127.0.0.1:PORT", "unix:app.sock"]\n{PAIR}', {"app.py": APP})
    with begin_upload(server) as connection:
        server.signal(signal.SIGTERM)
        eventually(lambda: refuses(server), what="the end of the listeners")
        with pytest.raises(ConnectionRefusedError):
            server.connect().close()
        assert not (server.directory / "app.sock").exists()
        connection.sendall(b"56789")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert server.wait_exit() == 0


def test_not_one_request_that_was_taken_is_lost_by_a_stop_under_load(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    lost: list[str] = []
    connections = [server.connect() for _ in range(200)]
    for connection in connections:
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
    server.signal(signal.SIGTERM)
    for connection in connections:
        with connection:
            if not read_all(connection).endswith(b"one"):
                lost.append("an answer")
    assert lost == []
    assert server.wait_exit() == 0


@pytest.mark.parametrize("stuck", [True, False])
def test_int_stops_at_once(serve: Serve, stuck: bool) -> None:
    server = serve(PAIR, {"app.py": APP})
    connection = begin(server, "/wait") if stuck else connect(server)
    told = monotonic()
    server.signal(signal.SIGINT)
    assert server.wait_exit(5) == 0
    assert monotonic() - told < 0.4, "0.03 s on an idle machine"
    connection.close()
    assert server.family() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_answer_that_a_stop_cuts_short_is_not_taken_for_whole(serve: Serve, number: signal.Signals) -> None:
    """HTTP/1.0, whose answers end with the connection: by a reset, then."""
    server = serve(PAIR.replace("[workers]", "[workers]\ngraceful_timeout = 0.2"), {"app.py": APP})
    with server.connect() as connection:
        connection.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        while b"first" not in connection.recv(65536):
            pass
        server.signal(number)
        with pytest.raises(ConnectionResetError):
            read_all(connection)
    assert server.wait_exit(10) == 0


def test_a_second_term_is_fast(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    with begin_upload(server):
        server.signal(signal.SIGTERM)
        wait_draining(server)
        server.signal(signal.SIGTERM)
        assert server.wait_exit(5) == 0


def test_terms_without_end_do_not_change_the_exit_status(serve: Serve) -> None:
    for _ in range(3):
        server = serve(CONFIG, {"app.py": APP})
        while server.process.poll() is None:
            server.signal(signal.SIGTERM)
        assert server.process.returncode == 0
        assert not (server.directory / "run").exists()


def test_graceful_timeout_ends_a_request_that_does_not_end_and_names_it(serve: Serve) -> None:
    server = serve(CONFIG.replace("[log]", "graceful_timeout = 0.2\n[log]"), {"app.py": APP})
    with begin_upload(server):
        server.signal(signal.SIGTERM)
        assert server.wait_exit(5) == 0
    server.wait_log(r"warning: not done within 0\.2 s: POST /body")
    assert "killing it" not in server.stderr


def test_a_worker_stuck_in_the_application_leaves_without_it(serve: Serve) -> None:
    server = serve(CONFIG.replace("[log]", "graceful_timeout = 0.2\n[log]"), {"app.py": APP})
    (worker,) = pids(server)
    with_call = begin(server, "/wait")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    server.wait_log(rf"\[{worker}\] warning: not done within 0.2 s: GET /wait")
    with pytest.raises((OSError, HTTPException)):
        answer(with_call)
    with_call.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_the_application_registered_with_atexit_is_called_when_its_worker_leaves(
    serve: Serve, number: signal.Signals
) -> None:
    server = serve(PAIR, {"app.py": ATEXIT})
    workers = pids(server)
    server.signal(number)
    files = {server.directory / f"left-{pid}" for pid in workers}
    eventually(lambda: all(file.exists() for file in files), what="the work of all exit handlers")


def test_neither_threads_nor_exit_handlers_of_the_application_keep_the_server_alive(serve: Serve) -> None:
    for line in ("atexit.register(lambda: 1 / 0)", "threading.Thread(target=time.sleep, args=(1000,)).start()"):
        source = f"import atexit, threading, time\n{line}\n{APP}"
        server = serve(CONFIG.replace("[log]", "graceful_timeout = 0.2\n[log]"), {"app.py": source})
        server.signal(signal.SIGTERM)
        assert server.wait_exit(5) == 0


def test_a_stop_during_a_reload_is_a_stop(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    (server.directory / "app.py").write_text("import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n")
    server.signal(signal.SIGHUP)
    eventually((server.directory / "entered").exists, what="the new application's import")
    server.signal(signal.SIGTERM)
    assert server.wait_exit(5) == 0
    assert server.family() == []


def test_a_stop_while_an_old_generation_still_drains_waits_for_it_too(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    with_call = begin(server, "/wait")
    (server.directory / "app.py").write_text(NEW)
    assert server.command("reload").returncode == 0
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    eventually(lambda: len(pids(server)) == 1, what="the end of the new worker")
    open_gate(server)
    assert answer(with_call) == b"done"
    with_call.close()
    assert server.wait_exit() == 0


def test_a_signal_sent_while_the_workers_are_suspended_is_not_forgotten(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    for worker in server.workers():
        suspend(worker)
    server.signal(signal.SIGTERM)
    server.wait_log("stopping")
    for worker in server.workers():
        worker.resume()
    assert server.wait_exit(5) == 0
