"""The control socket against clients that are no commands: garbage, half lines, huge lines, idlers disturb nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, pids, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    return serve_module(PAIR, {"app.py": APP})


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server which, whatever was said to it, is as it was: the same workers, no crash, no descriptor more."""
    before, descriptors, crashes = pids(shared), shared.master.num_fds(), shared.stderr.count("crashed")
    yield shared
    assert status(shared)["master"]["generation"] == 1
    assert pids(shared) == before
    assert shared.get().status == 200
    eventually(lambda: shared.master.num_fds() <= descriptors, what="as many descriptors as before")
    assert shared.stderr.count("crashed") == crashes, shared.stderr


def client(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(os.path.relpath(server.directory / "run/prefork.sock"))
    connection.settimeout(10)
    return connection


def ask(server: Server, data: bytes) -> bytes:
    """What comes back for `data`: a line, or b"" where the master closes."""
    with client(server) as connection, connection.makefile("rb") as lines:
        connection.sendall(data)
        return lines.readline()


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b'"status"\n',
        b"null\n",
        b'{"command": "status"} {"command": "status"}\n',
        b'{"command": "\xff\xfe"}\n',
        b'{"command": "\\ud800"}\n',
        b'{"\\ud800": 1}\n',
        b"\0\0\0\0\n",
        b"[" * 60_000 + b"\n",
        b'{"a":' * 10_000 + b"\n",
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
)
def test_what_is_no_json_object_is_answered_as_that(server: Server, data: bytes) -> None:
    reply = json.loads(ask(server, data))
    assert reply["ok"] is False
    assert "not a JSON object" in reply["message"]


@pytest.mark.parametrize("data", [{}, {"now": 1}, *({"command": c} for c in ("shutdown", None, ["stop"], {"stop": 1}))])
def test_an_unknown_command_is_answered_as_that(server: Server, data: object) -> None:
    reply = json.loads(ask(server, json.dumps(data).encode() + b"\n"))
    assert reply["ok"] is False
    assert "unknown command" in reply["message"]


def test_a_line_that_does_not_end_is_cut_off(server: Server) -> None:
    with client(server) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"x" * 10_000_000)


def test_a_command_in_pieces_is_understood(server: Server) -> None:
    with client(server) as connection, connection.makefile("rb") as lines:
        for byte in b'{"command": "status"}\n':
            connection.sendall(bytes([byte]))
        assert json.loads(lines.readline())["ok"] is True


def test_half_a_line_and_a_hang_up_is_nothing(server: Server) -> None:
    for _ in range(20):
        with client(server) as connection:
            connection.sendall(b'{"command": "stop"}')


def test_a_client_that_leaves_without_its_answer_does_no_harm(server: Server) -> None:
    for _ in range(20):
        with client(server) as connection:
            connection.sendall(b'{"command": "status"}\n')


def test_fifty_idle_clients_do_not_keep_a_command_waiting(server: Server) -> None:
    idle = [client(server) for _ in range(50)]
    assert status(server)["ok"] is True
    assert server.command("status").returncode == 0
    for connection in idle:
        connection.close()


def test_everyone_who_waits_for_a_reload_hears_of_a_stop(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    (server.directory / "app.py").write_text("import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n")
    clients = [client(server) for _ in range(3)]
    clients[0].sendall(b'{"command": "reload"}\n')
    eventually((server.directory / "entered").exists, what="the new application's import")
    for late in clients[1:]:
        late.sendall(b'{"command": "reload"}\n')
    assert status(server)["ok"] is True  # who was before us has been heard
    server.signal(signal.SIGTERM)
    for waiting in clients:
        with waiting, waiting.makefile("rb") as lines:
            assert json.loads(lines.readline()) == {"ok": False, "message": "the server is stopping", "report": ""}
    assert server.wait_exit() == 0


def test_the_socket_is_its_owners_alone(server: Server) -> None:
    assert (server.directory / "run/prefork.sock").stat().st_mode & 0o777 == 0o600
