"""A log that is full: the lines that are lost are counted in `status`, and told of in the error log."""

from __future__ import annotations

import signal

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, pids, status
from tests.e2e.conftest import Serve


def test_lost_lines_are_counted_and_told_of_though_their_worker_has_died(serve: Serve) -> None:
    server = serve(CONFIG.replace('access = ""', 'access = "/dev/full"'), {"app.py": APP})
    for _ in range(3):
        assert server.get().status == 200
    eventually(lambda: status(server)["totals"]["lost_lines"] == {"access": 3, "error": 0})
    (before,) = pids(server)
    server.workers()[0].send_signal(signal.SIGKILL)
    eventually(lambda: pids(server) - {before}, what="a worker in the place of the one that was killed")
    assert status(server)["totals"]["lost_lines"] == {"access": 3, "error": 0}
    assert "  lost        3 lines of the access log\n" in server.command("status").stdout
    server.wait_log(r"error: log lines are lost: 3 of the access log /dev/full \(No space left on device\)$")
