"""Three kinds of traffic: what a request costs prefork and its peers where requests are alike, and where they are not.

    python tests/bench/traffic.py [--case NAME ...] [--kind NAME ...] [--server NAME ...] [--rounds 5]

- `same`: one request again and again, as most benchmarks have it: 13 header fields, as a browser sends them.
- `clients`: 200 clients, each with a cookie of its own, ask for 300 targets (of files: 10,000, the n-th of which is
  asked for 1/n times as often as the first).
- `proxied`: the same behind a proxy, which adds four fields: a request id, a trace context and the address of the
  client, all of them new in each request, and the scheme. No two heads are alike, as on most sites.

Servers, load and CPU time are those of compare.py. Each round starts every server anew and puts the kinds to it one
after another. The medians of the rounds are reported, with the least and the most; and the ratio of prefork's to each.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from apps_fastapi import ITEM
from compare import FIELDS, Load, cost, interleave, two_cores, versions
from servers import BODY, FILE, Absent, Peer, Running, Site, bjoern, granian, nginx, prefork, running, uvicorn

CLIENTS = 200
TARGETS = 300
FILES = 10_000
BUSY = 0.9  # of the server's core: below it, wrk holds the server back, and its figures are too high
KINDS = ("same", "clients", "proxied")
PROXIED = (
    '"X-Request-Id: " .. hex[random(1024)] .. hex[random(1024)] .. "\\r\\n"',
    '"traceparent: 00-" .. hex[random(1024)] .. hex[random(1024)] .. "-4bf92f3577b34da6-01\\r\\n"',
    '"X-Forwarded-For: 10.1." .. octet[random(256)] .. "." .. octet[random(256)] .. "\\r\\n"',
    '"X-Forwarded-Proto: https\\r\\n"',
)  # Lua: the lines that the proxy adds
SCRIPT = """
local random = math.random
local hex, octet, sessions, targets = {{}}, {{}}, {{}}, {{}}  -- made before: wrk must be faster than the servers
for n = 1, 1024 do hex[n] = string.format("%08x%08x", random(0, 2147483647), random(0, 2147483647)) end
for n = 1, 256 do octet[n] = tostring(n - 1) end
for n = 1, {clients} do sessions[n] = hex[n] end
for n = 1, {targets} do targets[n] = {target} end
function request()
  return {method} .. targets[{choice}] .. {version} .. sessions[{client}] .. {rest}{added} .. {end_}
end
"""


@dataclass(frozen=True)
class Case:
    """The requests of a case, and its servers: `target` has the number of the target in the place of "@"; a POST with
    `content` where there is some. `body` is the answer's.
    """

    target: str
    body: bytes
    servers: tuple[Peer, ...]
    content: bytes = b""
    targets: int = TARGETS

    def script(self, kind: str) -> str:
        """wrk's script for this kind of traffic."""
        before, cookie, after = self._fields()
        one = kind == "same"
        choice = "random({targets})" if self.targets == TARGETS else "math.floor({targets} ^ random())"
        head, tail = self.target.split("@")
        return SCRIPT.format(
            clients=CLIENTS,
            targets=self.targets,
            target=f"{json.dumps(head)} .. n .. {json.dumps(tail)}",
            method=json.dumps("POST " if self.content else "GET "),
            version=json.dumps(f" HTTP/1.1\r\n{before}{cookie}"),
            choice="1" if one else choice.format(targets=self.targets),
            client="1" if one else f"random({CLIENTS})",
            rest=json.dumps(after),
            added="".join(f" .. {line}" for line in PROXIED) if kind == "proxied" else "",
            end_=json.dumps("\r\n" + self.content.decode()),
        )

    def _fields(self) -> tuple[str, str, str]:
        """The field lines before the cookie, its line up to the session, and the rest of it with the lines after it."""
        lines = [f"{field}\r\n" for field in FIELDS]
        if self.content:
            lines += ["Content-Type: application/json\r\n", f"Content-Length: {len(self.content)}\r\n"]
        at = next(number for number, line in enumerate(lines) if line.startswith("Cookie: "))
        return "".join(lines[:at]), "Cookie: session=", "; theme=dark; consent=yes\r\n" + "".join(lines[at + 1 :])


def with_files(command: Callable[[Site], list[str]]) -> Callable[[Site], list[str]]:
    """The same, with the files laid down before."""

    def made(site: Site) -> list[str]:
        for number in range(1, FILES + 1):
            (site.directory / f"public/static/{number}.txt").write_bytes(FILE)
        return command(site)

    return made


FLASK, FASTAPI = "apps_flask:app", "apps_fastapi:app"
NGINX = "root public; sendfile on; tcp_nopush on; open_file_cache max=20000 inactive=60s;"
BLOCKING = ("--interface", "wsgi", "--blocking-threads", "1")
CASES = {
    "wsgi": Case(
        "/articles/@?page=2",
        BODY,
        (
            Peer("prefork", "wsgi", "WSGI", prefork('path = "/"\nwsgi = "apps:hello"')),
            Peer("bjoern", "wsgi", "WSGI", bjoern),
            Peer("granian", "wsgi", "WSGI", granian("apps:hello", *BLOCKING)),
        ),
    ),
    "asgi": Case(
        "/articles/@?page=2",
        BODY,
        (
            Peer("prefork", "asgi", "ASGI", prefork('path = "/"\nasgi = "apps:hello_asgi"')),
            Peer("uvicorn", "asgi", "ASGI", uvicorn("apps:hello_asgi")),
            Peer("granian", "asgi", "ASGI", granian("apps:hello_asgi", "--interface", "asgi")),
        ),
    ),
    "flask": Case(
        "/pages/@",
        BODY,
        (
            Peer("prefork", "flask", "WSGI", prefork(f'path = "/"\nwsgi = "{FLASK}"')),
            Peer("granian", "flask", "WSGI", granian(FLASK, *BLOCKING)),
        ),
    ),
    "fastapi": Case(
        "/items/@",
        ITEM,
        (
            Peer("prefork", "fastapi", "ASGI", prefork(f'path = "/"\nasgi = "{FASTAPI}"')),
            Peer("uvicorn", "fastapi", "ASGI", uvicorn(FASTAPI)),
            Peer("granian", "fastapi", "ASGI", granian(FASTAPI, "--interface", "asgi")),
        ),
        content=ITEM,
    ),
    "files": Case(
        "/static/@.txt",
        FILE,
        (
            Peer(
                "prefork",
                "files",
                "1 KiB",
                with_files(prefork('path = "/static/"\nfiles = { root = "public/static" }')),
            ),
            Peer("nginx", "files", "1 KiB", with_files(nginx(NGINX))),
        ),
        targets=FILES,
    ),
}


def measure(peer: Peer, kinds: list[str], scripts: Path, peers: Path, core: int, load: Load) -> dict[str, float]:
    """CPU microseconds per request of each kind. Raises Absent; warns where wrk was not fast enough."""
    case = CASES[peer.case]
    with running(peer, peers, core) as server:
        check(server, case)
        url = f"http://127.0.0.1:{server.port}/"
        found = {}
        for kind in kinds:
            found[kind], rate = cost(server, url, load, ("-s", str(scripts / f"{peer.case}-{kind}.lua")))
            if (busy := found[kind] * rate / 1e6) < BUSY:
                print(f"{peer.name}, {kind}: its core was only {busy:.0%} busy", file=sys.stderr)
        return found


def check(server: Running, case: Case) -> None:
    """Raises Absent where the answer to a request of the case is not the body that it should be."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        fields = {"Content-Type": "application/json"} if case.content else {}
        connection.request(
            "POST" if case.content else "GET", case.target.replace("@", "1"), case.content or None, fields
        )
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise Absent(f"does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != case.body:
        raise Absent(f"answers {answer.status} {body[:100]!r}")


def table(case: str, kinds: list[str], samples: dict[Peer, list[dict[str, float]]], absent: dict[str, str]) -> str:
    """Markdown: for each kind the median in microseconds, (least..most), and prefork's as a multiple of the peer's."""
    rows = [f"| {case} | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
    ours: dict[str, float] = {}
    for peer, rounds in samples.items():
        cells = []
        for kind in kinds:
            figures = [of[kind] for of in rounds]
            middle = median(figures)
            ours.setdefault(kind, middle)
            ratio = "" if peer.name == "prefork" else f", **{ours[kind] / middle:.2f}**"
            cells.append(f"{middle:.1f} ({min(figures):.1f}..{max(figures):.1f}){ratio}")
        rows.append(f"| {peer.name} | " + " | ".join(cells) + " |")
    rows += [f"| {name} | absent: {reason} |" + " |" * (len(kinds) - 1) for name, reason in absent.items()]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers", metavar="DIRECTORY"
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--server", nargs="+", metavar="NAME", help="beside prefork; default: all of the case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of wrk, a server, kind and round")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    server_core, wrk_core = two_cores("wrk")
    load = Load(wrk_core, options.connections, options.seconds)
    print(f"{options.rounds} rounds of {options.seconds} s, {options.connections} connections; CPU us/request")
    print(versions(options.peers))
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as name:
        scripts = Path(name)
        for case in options.case:
            for kind in options.kind:
                (scripts / f"{case}-{kind}.lua").write_text(CASES[case].script(kind))
            names = {"prefork", *(options.server or [])}
            chosen = [peer for peer in CASES[case].servers if not options.server or peer.name in names]
            samples, absent = interleave(
                chosen,
                options.rounds,
                lambda peer: measure(peer, options.kind, scripts, options.peers, server_core, load),
            )
            print(f"\n{table(case, options.kind, samples, absent)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
