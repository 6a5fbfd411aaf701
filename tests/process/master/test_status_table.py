"""`prefork status` for people: the first thing told is whether the server serves, and all of it fits 80 columns."""

from __future__ import annotations

import time
from typing import Any

import pytest

from prefork.process.master.status_table import table

NOW = 1_800_000_000.0
FIGURES = {"accepted": 123456789, "connections": 4096, "requests": 999_999_999, "sent": 10**15}


def worker(state: str = "serving", request: str = "", answers: bool = True, age: float = 86400.0) -> dict[str, Any]:
    longest = {"request": request, "age": 12.34} if request else None
    own = {"pid": 4194303, "generation": 123, "state": state, "age": age, "cpu": 12345.67, "memory": 999 << 20}
    return {**FIGURES, **own, "longest": longest, "answers": answers}


def status(*workers: dict[str, Any], **more: Any) -> dict[str, Any]:
    serving = sum(one["state"] == "serving" for one in workers)
    return {
        "version": "1.0.0",
        "master": {
            "pid": 4194304,
            "started": NOW,
            "config": "config/server.toml",
            "loaded": NOW,
            "listen": [f"192.168.100.{number}:8000" for number in range(100, 106)],
            "generation": 123,
            "workers": 2,
            "phase": "serving",
        },
        "last_reload": None,
        "ready": serving > 0,
        "stopping": False,
        "serving": serving,
        "deaths": {"count": 0, "last": None},
        "next_attempt": None,
        "totals": FIGURES,
        "workers": workers,
        **more,
    }


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def line(text: str, begin: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(begin)]
    return found


def test_where_all_serve_that_is_told_and_nothing_of_deaths() -> None:
    text = table(status(worker(), worker()))
    assert line(text, "  workers") == "  workers     2 of 2 serve"
    assert "deaths" not in text


def test_a_crash_loop_is_told_with_the_number_of_deaths_the_last_reason_and_the_next_attempt() -> None:
    deaths = {"count": 17, "last": {"at": NOW - 3, "reason": "worker 1 cannot boot: ImportError: no \x1b[31m"}}
    text = table(status(deaths=deaths, next_attempt=NOW + 12))
    assert line(text, "  workers") == "  workers     NONE SERVES: 0 of 2 workers; the next attempt in 12 s"
    assert line(text, "  deaths") == "  deaths      17 in this generation, the last 3 s ago: worker 1 cannot boot:"
    assert r"ImportError: no \x1B[31m" in text
    assert "open" not in text  # no head of a table without rows


@pytest.mark.parametrize("state", ["stuck", "stopped", "unknown", "booting", "draining"])
def test_those_that_do_not_serve_are_counted_by_what_keeps_them(state: str) -> None:
    assert line(table(status(worker(), worker(state))), "  workers") == f"  workers     1 of 2 serve, 1 {state}"


def test_that_workers_were_drained_is_no_crash() -> None:
    told = status()
    told["master"]["phase"] = "leaving"
    text = table(told)
    assert "NONE SERVES: 0 of 2 workers; they have been told to leave, and a" in text


def test_what_a_worker_is_at_stands_below_it_and_is_cut_at_the_width() -> None:
    text = table(status(worker(request="GET /" + "x" * 500), worker(answers=False)))
    rows = text.splitlines()[-4:]
    assert rows[0].split()[0] == "4194303"
    assert rows[1].startswith("              12.3 s GET /xxx")
    assert rows[1].endswith("x...")
    assert rows[3] == "              (it does not answer)"
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("age", [0.0, 59.9, 3599.0, 86399.0, 1e9, 1e300])
def test_all_of_it_fits_80_columns(age: float) -> None:
    failed = {"at": NOW, "ok": False, "message": "worker 4194303 cannot boot: " + "an error of many words " * 9}
    deaths = {"count": 10**6, "last": {"at": NOW - 1e8, "reason": "worker 4194303 cannot boot: " + "why " * 50}}
    told = status(*(worker(age=min(age, 1e12)) for _ in range(2)), last_reload=failed, deaths=deaths, next_attempt=NOW)
    assert max(map(len, table(told).splitlines())) <= 80


def test_what_an_older_master_tells_is_shown_too() -> None:
    told = status(worker(), worker())
    for name in ("stopping", "serving", "deaths", "next_attempt"):
        del told[name]
    del told["master"]["phase"]
    assert line(table(told), "  workers") == "  workers     2 of 2 serve"
