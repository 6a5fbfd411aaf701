"""What a request head costs: `python tests/bench/head.py`, in microseconds a head, the best of many rounds.

The head is a browser's, of 13 fields. `known` has been seen before, `searched` as well, but with something after it, so
that its end is looked for; in the others each head has something new: the target, one field, or all of them.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from itertools import count

from prefork.http.h1.parse import HEAD_END, Heads

COUNT = 200  # heads a round: few enough to stay in the processor's cache, as what was just received does
ROUNDS = 200
FIELDS = {
    "Host": "localhost:8000",
    "Connection": "keep-alive",
    "Cache-Control": "max-age=0",
    "sec-ch-ua": '"Chromium";v="126", "Not/A)Brand";v="8"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Referer": "http://localhost:8000/articles/2026",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
}
NUMBERS = count()


def make(target: str = "", field: str = "", every: str = "") -> bytes:
    """A head with `target`, `field` and `every` appended to its target, its last field and all of its fields."""
    lines = [f"GET /articles/17?page=2{target} HTTP/1.1"]
    lines += [f"{name}: {value}{every if name not in ('Host', 'Connection') else ''}" for name, value in FIELDS.items()]
    return "\r\n".join([*lines[:-1], lines[-1] + field, "", ""]).encode()


def measure(head: Callable[[], bytes]) -> float:
    heads = Heads(32 << 10, 100)

    def read_all() -> None:
        for data in batch:
            if heads.whole(data) is None:  # as a connection does it
                heads.parse(data, data.find(HEAD_END))

    best = float("inf")
    for _ in range(ROUNDS):
        batch = [head() for _ in range(COUNT)]
        best = min(best, timeit.timeit(read_all, number=1))
    return best / COUNT * 1e6


def main() -> None:
    known = make()
    rows: dict[str, Callable[[], bytes]] = {
        "known": lambda: known,
        "searched": lambda: known + b"GET",
        "new target": lambda: make(target=f"&n={next(NUMBERS)}"),
        "new field": lambda: make(field=f"; n={next(NUMBERS)}"),
        "all new": lambda: make(target=f"&n={(number := next(NUMBERS))}", every=f"{number}"),
    }
    for name, head in rows.items():
        print(f"{name:12} {measure(head):6.2f} us")


if __name__ == "__main__":
    main()
