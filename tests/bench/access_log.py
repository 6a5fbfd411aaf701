"""What a line of the access log costs: `python tests/bench/access_log.py`, in nanoseconds a record."""

from __future__ import annotations

import timeit
from collections.abc import Iterable
from itertools import repeat
from typing import cast

from prefork.http.message import Client, Headers, Request, RequestBody, RequestLine
from prefork.observe.access_log import AccessLog
from prefork.observe.sink import Sink

COUNT = 200  # few enough to stay in the processor's cache, as the request just parsed does
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
FIELDS: tuple[tuple[str, str], ...] = (
    ("host", "localhost:8000"),
    ("user-agent", AGENT),
    ("referer", "http://localhost:8000/articles/2026"),
)
FIELDS += tuple((f"x-field-{number}", "some value of a usual length") for number in range(10))
CLIENT = Client("127.0.0.1", 50000, "http", "localhost", "8000")


def make_request() -> Request:
    line = RequestLine("GET", "/articles/17?page=2", "/articles/17", "page=2", "", 1)
    return Request(line, Headers.of(FIELDS), cast(RequestBody, None), CLIENT)


def measure(log: AccessLog, requests: Iterable[Request]) -> float:
    def record_all() -> None:
        for request in requests:
            log.record(CLIENT, request, 200, 200, 1434, 0.0012)

    return timeit.timeit(record_all, number=1) / COUNT * 1e9


def main() -> None:
    for format in ("common", "combined", "json"):
        log = AccessLog(format, Sink("/dev/null"))
        known = min(measure(log, repeat(make_request(), COUNT)) for _ in range(300))
        new = min(measure(log, [make_request() for _ in range(COUNT)]) for _ in range(300))
        print(f"{format:10} repeated head {known:6.0f}   new head {new:6.0f}")


if __name__ == "__main__":
    main()
