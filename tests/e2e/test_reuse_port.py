"""reuse_port: a socket for each worker, which the master holds whatever becomes of that, and no client is lost."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, Clients, command, listeners, pids, states, status, wait_generation
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, suspend

OWN = 'listen = [{ address = "127.0.0.1:PORT", reuse_port = true }]\n' + PAIR
SHARED = 'listen = ["127.0.0.1:PORT"]\n' + PAIR
REQUEST = b"GET /version HTTP/1.0\r\n\r\n"


def of_workers(server: Server) -> list[set[str]]:
    """The listening sockets of each worker."""
    return [listeners(pid) for pid in sorted(pids(server))]


def reload(server: Server, text: str) -> None:
    server.rewrite(text)
    done = command(server, "reload")
    assert done["ok"], done


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(OWN, {"app.py": APP})


def test_each_worker_has_a_socket_of_its_own_and_the_kernel_deals_clients_out(server: Server) -> None:
    first, second = of_workers(server)
    assert len(first) == len(second) == 1
    assert first | second == listeners(server.master.pid)
    assert len(first | second) == 2
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(server.connect())
        eventually(lambda: sum(w["connections"] for w in status(server)["workers"]) == 100, what="all clients inside")
        assert min(worker["connections"] for worker in status(server)["workers"]) > 15
    assert server.stdout.count(f":{server.port}") == 1


def test_the_number_of_workers_is_changed_by_a_reload_alone(server: Server) -> None:
    failed = command(server, "scale", count=3)
    assert failed["ok"] is False
    assert "with reuse_port, scaling needs a reload" in failed["message"]
    assert states(server) == ["serving"] * 2


def test_who_waits_for_a_worker_that_dies_is_answered_by_its_successor(server: Server) -> None:
    for worker in server.workers():
        suspend(worker)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(REQUEST)
        for worker in server.workers():
            worker.kill()
        for client in clients:
            assert client.recv(65536).endswith(b"one")
    eventually(lambda: states(server) == ["serving"] * 2)


def test_reloads_keep_every_socket_and_lose_no_request_whatever_the_number_of_workers(serve: Serve) -> None:
    server = serve(OWN, {"app.py": APP})
    before = listeners(server.master.pid)
    with Clients(server) as clients:
        reload(server, OWN.replace("count = 2", "count = 3"))
        grown = listeners(server.master.pid)
        assert before < grown
        assert len(grown) == 3
        clients.wait_answers(30)
        reload(server, OWN)
        assert listeners(server.master.pid) == grown
        clients.wait_answers(30)
        wait_generation(server, 3, workers=2)
        assert sorted(map(len, of_workers(server))) == [1, 2]
        reload(server, SHARED)
        (kept,) = listeners(server.master.pid)
        assert kept in before
        clients.wait_answers(30)
        reload(server, OWN)
        assert kept in listeners(server.master.pid)
        assert len(listeners(server.master.pid)) == 2
        clients.wait_answers(30)
    (server.directory / "app.py").write_text("raise RuntimeError")
    server.rewrite(OWN.replace("count = 2", "count = 4"))
    before = listeners(server.master.pid)
    assert command(server, "reload")["ok"] is False
    assert listeners(server.master.pid) == before
