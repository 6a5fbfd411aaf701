"""The status route: what the snapshot says at the moment, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from prefork.handlers.status import status
from prefork.observe.metrics import snapshot
from prefork.shared.scoreboard import Scoreboard
from tests.handlers.exchange import exchange, parse, request

FIGURES: Mapping[str, object] = {"workers": [{"pid": 1, "age": 0.5}], "name": "caf\xe9"}


def test_it_is_the_snapshot_as_json_that_nobody_keeps() -> None:
    answer = parse(exchange(status(lambda: FIGURES), request("/status")))
    assert answer.status == 200
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("application/json", "no-store")
    assert json.loads(answer.body) == FIGURES
    assert answer.body.endswith(b"}\n")
    assert b'\n  "workers"' in answer.body  # for people, too


@pytest.mark.parametrize(("ready", "code"), [(True, 200), (False, 503)])
def test_a_server_that_is_not_ready_says_so_by_503(ready: bool, code: int) -> None:
    answer = parse(exchange(status(lambda: {"ready": ready}), request("/status")))
    assert (answer.status, json.loads(answer.body)) == (code, {"ready": ready})


def test_each_request_sees_the_figures_of_its_moment() -> None:
    figures = {"requests": 0}

    def counted() -> Mapping[str, object]:
        figures["requests"] += 1
        return figures

    answer = parse(exchange(status(counted), request("/") * 2))
    assert [json.loads(body)["requests"] for body in (answer.body, parse(answer.rest).body)] == [1, 2]


def test_head_has_no_body() -> None:
    answer = parse(exchange(status(lambda: FIGURES), request("/", method="HEAD")), "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 20


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_405_and_learn_what_is_allowed(method: str) -> None:
    answer = parse(exchange(status(lambda: FIGURES), request("/", method=method)))
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_snapshot_that_fails_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Mapping[str, object]:
        raise OSError("the cause")

    assert parse(exchange(status(broken), request("/"))).status == 500
    assert "the cause" in caplog.text


def test_the_scoreboards_snapshot_is_jsonable() -> None:
    board = Scoreboard(2)
    board.occupy(1, 4711, 1)
    answer = parse(exchange(status(lambda: snapshot(board)), request("/")))
    (worker,) = json.loads(answer.body)["workers"]
    assert (worker["pid"], worker["generation"], worker["state"]) == (4711, 1, "booting")
