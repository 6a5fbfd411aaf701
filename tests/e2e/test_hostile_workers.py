"""Workers whose application has taken over: what they can write, they fill with nonsense, and it costs nobody else."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, PAIR, command, serving, status, wait_generation
from tests.e2e.conftest import Serve

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process its mappings")

SPOILING = f'''
import gc
import re
from prefork.process.messages import Reporter


def fill():
    """Fill all memory that is shared with others and can be written."""
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "r+b", buffering=0) as memory:
        for begin, end in re.findall("^([0-9a-f]+)-([0-9a-f]+) rw-s", maps.read(), re.MULTILINE):
            memory.seek(int(begin, 16))
            memory.write(b"\\x7f" * (int(end, 16) - int(begin, 16)))


def babble():
    """Tell the master what is no message, for ever."""
    (tell,) = [thing for thing in gc.get_objects() if isinstance(thing, Reporter)]
    try:
        while True:
            os.write(tell.fd, b"x" * 65536)
    except OSError:
        pass


{APP}

def hostile(environ, start_response):
    deed = dict([("/fill", fill), ("/babble", babble)]).get(environ["PATH_INFO"])
    if deed is not None:
        deed()
    return app(environ, start_response)
'''
CONFIG = PAIR.replace("app:app", "app:hostile")


@pytest.mark.parametrize("preload", [False, True])
def test_a_worker_that_fills_all_that_it_can_write_spoils_nothing_but_what_is_told_of_itself(
    serve: Serve, preload: bool
) -> None:
    config = CONFIG.replace("[log]", "preload = true\n[log]") if preload else CONFIG
    server = serve(config, {"app.py": SPOILING})
    (other,) = serving(server) - {hostile := int(server.get("/fill").body)}
    told = {worker["pid"]: worker for worker in status(server)["workers"]}
    assert (told[hostile]["state"], told[other]["state"]) == ("unknown", "serving")
    assert told[hostile]["generation"] == 1
    assert status(server)["totals"]["requests"] < 100
    assert server.command("status").returncode == 0
    assert command(server, "scale", count=3)["ok"]
    assert command(server, "reload")["ok"]
    wait_generation(server, 2, workers=2)
    assert status(server)["totals"]["requests"] < 100
    assert server.get("/version").body == b"one"
    assert "crashed" not in server.stderr


def test_a_worker_that_tells_the_master_nonsense_is_replaced_and_the_others_are_heard(serve: Serve) -> None:
    server = serve(CONFIG.replace("[log]", "max_requests = 1000\n[log]"), {"app.py": SPOILING})
    before = serving(server)
    babbler = int(server.get("/babble").body)
    assert server.wait_log(rf"error: worker {babbler} sent a malformed message: .*; replacing it")
    eventually(lambda: len(serving(server) - {babbler}) == 2, what="another in its place")
    assert before - {babbler} < serving(server)
    assert all(worker["answers"] for worker in status(server)["workers"])
    assert server.stderr.count("malformed message") == 1
