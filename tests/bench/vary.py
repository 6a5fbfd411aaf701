"""What it costs when requests differ: CPU time per request of one prefork worker, by what is new in each request.

    python tests/bench/vary.py [--rounds 5] [--seconds 2] [--connections 32]

A WSGI application is asked with 13 header fields. Two servers on one core are loaded at the same time, each with
requests of its own kind, and each kind's CPU time is measured as compare.py does it: so a slow moment of the machine
is the same for both, and their ratio is steady. Where every request is the same, it is found as a whole; where
something is different each time, what was remembered of it does not help. What a header block costs that is like no
other's is told by the pair that differs in nothing else: the target is new in both. The first pair differs in nothing
at all, and shows how steady the ratios are. Medians of the rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from compare import FIELDS, Load, ask, costs, two_cores
from servers import BODY, HELLO, Peer, prefork, running

TARGET = 1.5  # times the cost with a known header block, where one field of the block is new
PREFORK = Peer("prefork", "wsgi", "WSGI", prefork(HELLO))
SEVERAL = ("User-Agent", "Accept-Language", "Referer", "Cookie", "Cache-Control")
SAME, FIELD, TARGET_NEW, BOTH = "nothing", "one field", "the target", "the target and one field"
FIELDS_NEW, ALL = f"{len(SEVERAL)} fields", f"the target and {len(SEVERAL)} fields"
CASES: dict[str, tuple[str, ...]] = {  # what has a number appended, another one in each request
    SAME: (),
    FIELD: ("Cookie",),
    TARGET_NEW: ("target",),
    BOTH: ("target", "Cookie"),
    FIELDS_NEW: SEVERAL,
    ALL: ("target", *SEVERAL),
}
NEW_BLOCK = (TARGET_NEW, BOTH)
PAIRS = ((SAME, SAME), (SAME, FIELD), (SAME, TARGET_NEW), (SAME, FIELDS_NEW), NEW_BLOCK, (TARGET_NEW, ALL))


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


def measure(core: int, load: Load, one: Path, other: Path) -> tuple[float, float]:
    """CPU microseconds per request of what each of two scripts asks, at the same time. Raises Absent."""
    with running(PREFORK, Path(), core) as first, running(PREFORK, Path(), core) as second:
        asked = []
        for server, path in ((first, one), (second, other)):
            ask(server.port, "/", BODY)
            asked.append((server, f"http://127.0.0.1:{server.port}/", ("-s", str(path))))
        (first_cost, _), (second_cost, _) = costs(asked, load)
        return first_cost, second_cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a pair and round")
    parser.add_argument("--connections", type=int, default=32, help="to each of the two servers")
    options = parser.parse_args()
    server_core, wrk_core = two_cores("wrk")
    load = Load(wrk_core, options.connections, options.seconds)
    measured: dict[tuple[str, str], list[tuple[float, float]]] = {pair: [] for pair in PAIRS}
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        scripts = {case: Path(name) / f"{number}.lua" for number, case in enumerate(CASES)}
        for case, path in scripts.items():
            path.write_text(script(CASES[case]))
        for number in range(1, options.rounds + 1):
            print(f"round {number}/{options.rounds} ...", file=sys.stderr)
            for pair in PAIRS:
                measured[pair].append(measure(server_core, load, *(scripts[case] for case in pair)))
    print("| what is new | against | CPU us/request | ratio | min..max |\n| --- | --- | --: | --: | --: |")
    for (base, case), rounds in measured.items():
        ratios = [other / one for one, other in rounds]
        one, other = (median(figures) for figures in zip(*rounds, strict=True))
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
        print(f"| {case} | {base} | {other:.1f}, {one:.1f} | {median(ratios):.2f} | {spread} |")
    new_block = median(other / one for one, other in measured[NEW_BLOCK])
    print(f"\na new header block, all else alike: x {new_block:.2f}, at most {TARGET} is the target")


if __name__ == "__main__":
    main()
