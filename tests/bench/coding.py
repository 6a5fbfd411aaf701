"""gzip on the fly: CPU time per request of prefork and of nginx, side by side, for 100 KiB of HTML.

    python tests/bench/coding.py [--level 4] [--rounds 5] [--seconds 2] [--connections 16]

The page is pydoc's of asyncio, cut to 100 KiB, from a file and from a WSGI application; nginx has it from a file, with
sendfile, tcp_nopush and open_file_cache. What a server sends is decoded and held against the page before it is loaded.
"kept" is the file as prefork serves it by default: encoded once. The measuring is compare.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import pydoc
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

from compare import SAME, Load, cost, two_cores
from servers import Absent, Peer, Site, nginx, prefork, running

SIZE = 100 * 1024


def page() -> bytes:
    text = pydoc.HTMLDoc().document(asyncio).encode()
    return (text * (SIZE // len(text) + 1))[:SIZE]


PAGE = page()


def with_page(command: Callable[[Site], list[str]]) -> Callable[[Site], list[str]]:
    """`command`, its site having the page."""

    def prepared(site: Site) -> list[str]:
        (site.directory / "public/page.html").write_bytes(PAGE)
        return command(site)

    return prepared


def peers(level: int) -> list[Peer]:
    compression = ("compression.enabled = true", 'compression.codings = ["gzip"]', f"compression.level = {level}")
    files, wsgi = 'path = "/"\nfiles = "public"', 'path = "/"\nwsgi = "coding:app"'
    location = f"""root public; types {{ text/html html; }} sendfile on; tcp_nopush on; open_file_cache max=1000
        inactive=60s; gzip on; gzip_comp_level {level}; gzip_types text/html; gzip_proxied any;"""
    commands = {
        "prefork, a file": prefork(files, *compression, "compression.cache = 0"),
        "prefork, WSGI": prefork(wsgi, *compression),
        "nginx, a file": nginx(location),
        "prefork, kept": prefork(files, *compression),
    }
    return [Peer(name, "coding", "", with_page(command)) for name, command in commands.items()]


def app(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
    """The page as an application gives it."""
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [PAGE]


def check(port: int) -> int:
    """The bytes of the encoded page. Raises Absent where the answer is not the page, encoded by gzip."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/page.html", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.headers["Content-Encoding"] != "gzip" or zlib.decompress(body, 31) != PAGE:
        raise Absent(f"answers {answer.status}, {len(body)} bytes, {answer.headers['Content-Encoding']}")
    return len(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers")
    parser.add_argument("--level", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    server_core, wrk_core = two_cores("wrk")
    load = Load(wrk_core, options.connections, options.seconds)
    chosen = peers(options.level)
    samples: dict[str, list[tuple[float, float, int]]] = {peer.name: [] for peer in chosen}
    for number in range(1, options.rounds + 1):
        for peer in chosen:
            print(f"round {number}/{options.rounds}: {peer.name} ...", file=sys.stderr)
            with running(peer, options.peers, server_core) as server:
                size = check(server.port)
                url = f"http://127.0.0.1:{server.port}/page.html"
                samples[peer.name].append((*cost(server, url, load, SAME), size))
    first = median(cpu for cpu, _, _ in samples["nginx, a file"])
    print(f"gzip level {options.level}, {os.cpu_count()} cores, {options.rounds} rounds of {options.seconds} s")
    print(
        "| server | CPU us/request | min..max | x nginx | requests/s | bytes |\n| --- | --: | --: | --: | --: | --: |"
    )
    for name, of in samples.items():
        cpus = [cpu for cpu, _, _ in of]
        rate = median(rate for _, rate, _ in of)
        print(
            f"| {name} | {median(cpus):.0f} | {min(cpus):.0f}..{max(cpus):.0f} | {median(cpus) / first:.2f} "
            f"| {rate:,.0f} | {of[0][2]} |"
        )


if __name__ == "__main__":
    main()
