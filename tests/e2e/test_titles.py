"""The titles of the processes, by which ps and top tell master and workers apart."""

from __future__ import annotations

import pytest

from tests.e2e.apps import APP, PAIR, status
from tests.e2e.conftest import Serve

pytest.importorskip("setproctitle")


def test_master_and_workers_are_called_by_their_names_and_keep_their_environment(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": APP})
    assert " ".join(server.master.cmdline()).strip() == "prefork: master"
    slots = {worker["pid"]: worker["slot"] for worker in status(server)["workers"]}
    for worker in server.workers():
        assert " ".join(worker.cmdline()).strip() == f"prefork: worker {slots[worker.pid]}"
        assert worker.environ()["PATH"] == server.env["PATH"]
        assert "SPT_NOENV" not in worker.environ()
