"""What it costs when requests differ: CPU time per request of one prefork worker, by what is new in each request.

    python tests/bench/vary.py [--rounds 5] [--seconds 2] [--connections 64]

A WSGI application is asked with 13 header fields; CPU time is measured as compare.py does it. In the first row every
request is the same, and found as a whole; in the others something is different each time, so that what was remembered
of it does not help. What a header block costs that is like no other's is told by two rows that differ in nothing else:
the target is new in both. The rounds interleave the rows, on one server each round, and medians are reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from compare import FIELDS, Load, ask, cost, two_cores
from servers import BODY, HELLO, Peer, prefork, running

TARGET = 1.5  # times the cost of a request with a known header block, where one field of the block is new
PREFORK = Peer("prefork", "wsgi", "WSGI", prefork(HELLO))
SEVERAL = ("User-Agent", "Accept-Language", "Referer", "Cookie", "Cache-Control")
CASES: dict[str, tuple[str, ...]] = {  # what has a number appended, another one in each request
    "the same request": (),
    "one field new": ("Cookie",),
    "the target new": ("target",),
    "the target and one field new": ("target", "Cookie"),
    f"{len(SEVERAL)} fields new": SEVERAL,
    "target and all those fields new": ("target", *SEVERAL),
}


def script(varied: tuple[str, ...]) -> str:
    """wrk's script: requests of which these parts are new each time; wrk has nearly the same work with all of them.

    The numbers begin anew with each run of wrk, long after the server has forgotten them.
    """
    numbered = varied or ("Cookie",)
    lines = ["GET /articles/17?page=2" + ("&n=@" if "target" in numbered else "") + " HTTP/1.1"]
    lines += [field + ("; n=@" if field.partition(":")[0] in numbered else "") for field in FIELDS]
    pieces = "\r\n".join([*lines, "", ""]).split("@")
    head = " .. number .. ".join(json.dumps(piece).replace("\\r\\n", "\\13\\10") for piece in pieces)
    step = 1 if varied else 0
    return f"local number = 1000000000\nfunction request()\n  number = number + {step}\n  return {head}\nend\n"


def measure(core: int, load: Load, scripts: dict[str, Path]) -> dict[str, float]:
    """CPU microseconds per request of each case, on one server. Raises Absent."""
    with running(PREFORK, Path(), core) as server:
        ask(server.port, "/", BODY)
        url = f"http://127.0.0.1:{server.port}/"
        return {case: cost(server, url, load, ("-s", str(path)))[0] for case, path in scripts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a case and round")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    server_core, wrk_core = two_cores()
    load = Load(wrk_core, options.connections, options.seconds)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        scripts = {case: Path(name) / f"{number}.lua" for number, case in enumerate(CASES)}
        for case, path in scripts.items():
            path.write_text(script(CASES[case]))
        for number in range(1, options.rounds + 1):
            print(f"round {number}/{options.rounds} ...", file=sys.stderr)
            rounds.append(measure(server_core, load, scripts))
    same, one, target, both, *_ = medians = [median(figures[case] for figures in rounds) for case in CASES]
    print("| what is new | CPU us/request | min..max | x the same |\n| --- | --: | --: | --: |")
    for case, middle in zip(CASES, medians, strict=True):
        of = [figures[case] for figures in rounds]
        print(f"| {case} | {middle:.1f} | {min(of):.1f}..{max(of):.1f} | {middle / same:.2f} |")
    print(f"\na new block, target new in both: {both / target:.2f}, at most {TARGET} is the target")
    print(f"a new block, where else the whole request is known: {one / same:.2f}")


if __name__ == "__main__":
    main()
