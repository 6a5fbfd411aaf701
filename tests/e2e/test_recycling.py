"""Recycling under load: workers that have done enough are replaced one after another, and no client notices."""

from __future__ import annotations

import re

from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, Clients, pids, states
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

LEAK = (
    f"leaked = []\n{APP.replace('VERSION.encode()', 'leak()')}\n"
    + """
def leak():
    leaked.append(b"x" * (1 << 20))
    return VERSION.encode()
"""
)

NOTED = f"""
def note(what):
    with open("boots", "a") as boots:
        boots.write(what)

import time
note("(")
time.sleep(0.05)
{APP}
note(")")
"""


def recycled(server: Server, reason: str) -> list[str]:
    """The pids of the workers that have asked to be replaced, in order."""
    return re.findall(rf"\[(\d+)\] info: this worker asks to be replaced, since {reason}", server.stderr)


def test_max_requests_replaces_workers_one_by_one_and_no_request_fails(serve: Serve) -> None:
    server = serve(PAIR.replace("[log]", "max_requests = 100\n[log]"), {"app.py": NOTED})
    (server.directory / "boots").unlink()
    before = pids(server)
    with Clients(server):
        eventually(lambda: len(recycled(server, r"it has answered \d+ requests")) >= 6, 20, what="six recyclings")
    eventually(lambda: states(server) == ["serving"] * 2, what="two workers and no more")
    assert before & pids(server) == set()
    assert re.fullmatch(r"(\(\))+", (server.directory / "boots").read_text())  # no two boots at the same time
    assert len(recycled(server, "it has")) == len(set(recycled(server, "it has")))
    assert "died" not in server.stderr
    assert "next attempt" not in server.stderr


def test_max_memory_replaces_workers_that_leak_and_no_request_fails(serve: Serve) -> None:
    server = serve(PAIR.replace("[log]", 'max_memory = "120MiB"\n[log]'), {"app.py": LEAK})
    before = pids(server)
    with Clients(server):
        eventually(lambda: before & pids(server) == set(), 20, what="two other workers")
    assert {str(pid) for pid in before} <= set(recycled(server, r"it holds \d+\.\d MiB of memory"))
    assert "died" not in server.stderr


def test_reloads_while_workers_are_replaced_lose_nothing_and_kill_nobody(serve: Serve) -> None:
    """The workers that boot as their generation is superseded end before they have taken a client."""
    workers = PAIR.replace("count = 2", "count = 4").replace("[log]", "max_requests = 20\n[log]")
    server = serve(
        workers, {"app.py": APP.replace('path == "/version":', 'path == "/version":\n        time.sleep(0.005)')}
    )
    descriptors = server.master.num_fds()
    with Clients(server) as clients:
        for _ in range(15):
            clients.wait_answers(100)
            assert server.command("reload").returncode == 0
    eventually(lambda: server.master.num_fds() == descriptors, what="the descriptors of before")
    assert "died" not in server.stderr
    assert "error" not in server.stderr
