"""Both logs together: what stands where, in which order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from prefork.http.message import Client, Headers, Request, RequestBody, RequestLine
from prefork.logger import log
from prefork.observe import error_log
from prefork.observe.logs import Logs
from prefork.observe.sink import Sink
from prefork.settings.schema import Log
from tests.handlers.files.file_trees import descriptors, descriptors_at_rest

CLIENT = Client("192.0.2.7", 50000, "http", "localhost", "8000")
REQUEST = Request(RequestLine("GET", "/first", "/first", "", "", 1), Headers({}), cast(RequestBody, None), CLIENT)


@pytest.fixture(autouse=True)
def _error_log_of_before() -> Iterator[None]:
    handlers, level = list(log.handlers), log.level
    yield
    error_log.configure(Sink(""), "info")
    log.handlers[:], log.level = handlers, level


def logs_in(error: Path, access: Path) -> Logs:
    logs = Logs(Log(error=str(error), access=str(access), format="$request"))
    logs.apply()
    return logs


def record(logs: Logs) -> None:
    assert logs.access is not None
    logs.access.record(CLIENT, REQUEST, 200, 0, 0, 0.0)


def test_requests_stand_before_the_errors_of_later_ones_where_both_logs_are_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs = logs_in(path, path)
    record(logs)
    log.error("of a later request")
    record(logs)
    logs.close()
    first, error, last = path.read_text().splitlines()
    assert first == last == "GET /first HTTP/1.1"
    assert error.endswith("error: of a later request")


def test_an_error_has_no_request_written_to_another_file(tmp_path: Path) -> None:
    logs = logs_in(tmp_path / "error", tmp_path / "access")
    record(logs)
    log.error("of a later request")
    assert (tmp_path / "access").read_text() == ""
    logs.close()
    assert (tmp_path / "access").read_text() == "GET /first HTTP/1.1\n"


def test_requests_of_before_a_rotation_are_in_the_old_file(tmp_path: Path) -> None:
    error, access = tmp_path / "error", tmp_path / "access"
    logs = logs_in(error, access)
    record(logs)
    for path in (error, access):
        path.rename(path.with_suffix(".old"))
    assert logs.reopen() == []
    record(logs)
    record(logs)
    logs.close()
    lines = [path.read_text().count("GET /first") for path in (tmp_path / "access.old", access)]
    assert lines == [1, 2]


def test_a_rotation_while_others_log_errors_costs_no_line_and_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "error"
    logs = logs_in(path, tmp_path / "access")
    told = [0, 0, 0]
    over = threading.Event()

    def tell(number: int) -> None:
        while not over.is_set():
            log.error("thread %d", number)
            told[number] += 1

    threads = [threading.Thread(target=tell, args=[number]) for number in range(len(told))]
    before = descriptors_at_rest()
    for thread in threads:
        thread.start()
    for rotation in range(100):
        path.rename(tmp_path / f"error.{rotation}")
        assert logs.reopen() == []
    over.set()
    for thread in threads:
        thread.join()
    assert descriptors() == before
    logs.close()
    lines = "".join(file.read_text() for file in tmp_path.glob("error*")).splitlines()
    assert [sum(line.endswith(f"thread {number}") for line in lines) for number in range(len(told))] == told
