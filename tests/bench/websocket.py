"""WebSocket echo: CPU time per message of prefork and of uvicorn with `websockets`, side by side. Owns the client.

    python tests/bench/websocket.py [--rounds 5] [--seconds 2] [--connections 100]

Each connection has one message of 32 bytes under way, uncompressed; the client is one Python process on another core,
with ready-made frames, so that it keeps the server busy. The peers' environment is that of compare.py.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from compare import two_cores
from servers import Absent, Peer, Running, prefork, running, uvicorn

TEXT = b"a message of thirty-two letters."
SENT = b"\x81" + bytes([0x80 | len(TEXT)]) + b"\0\0\0\0" + TEXT  # masked by zeros (RFC 6455 section 5.3)
HEARD = b"\x81" + bytes([len(TEXT)]) + TEXT
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
OPTIONS = ("--ws", "websockets", "--ws-per-message-deflate", "false")
PEERS = (
    Peer("prefork", "websocket", "", prefork('path = "/"\nasgi = "apps:echo_asgi"', "websocket.compression = false")),
    Peer("uvicorn", "websocket", "", uvicorn("apps:echo_asgi", *OPTIONS)),
)


def connect(port: int) -> socket.socket:
    """A conversation that has begun. Raises Absent."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(65536)
        head += piece
        if not piece or not head.startswith(b"HTTP/1.1 101 "[: len(head)]):
            raise Absent(f"answers {head!r}")
    return client


def echo(clients: dict[int, socket.socket], seconds: float) -> int:
    """Keep one message of each client under way for so long; how many came back. Raises Absent for another answer."""
    poller, count = select.epoll(), 0
    for fd, client in clients.items():
        poller.register(fd, select.EPOLLIN)
        client.sendall(SENT)
    until = time.monotonic() + seconds
    waiting = len(clients)
    while waiting:
        going_on = time.monotonic() < until
        for fd, _ in poller.poll(10):
            heard = clients[fd].recv(4096)
            if heard != HEARD:
                raise Absent(f"says {heard!r}")
            count += 1
            if going_on:
                clients[fd].send(SENT)
            else:
                waiting -= 1
    poller.close()
    return count


def measure(server: Running, connections: int, seconds: float) -> tuple[float, float]:
    """CPU microseconds per message, and messages per second. Raises Absent."""
    talks = [connect(server.port) for _ in range(connections)]
    clients = {client.fileno(): client for client in talks}
    try:
        echo(clients, 0.5)
        before, began = sum(server.cpu().values()), time.monotonic()
        count = echo(clients, seconds)
        took = time.monotonic() - began
        return (sum(server.cpu().values()) - before) / count * 1e6, count / took
    finally:
        for client in talks:
            client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "prefork-peers")
    given = parser.parse_args()
    core, own = two_cores()
    os.sched_setaffinity(0, {own})
    found: dict[str, list[tuple[float, float]]] = {peer.name: [] for peer in PEERS}
    for number in range(1, given.rounds + 1):
        for peer in PEERS:
            print(f"round {number}/{given.rounds}: {peer.name} ...", file=sys.stderr)
            with running(peer, given.peers, core) as server:
                found[peer.name].append(measure(server, given.connections, given.seconds))
    print("| server | CPU us/message | min..max | messages/s |\n| --- | --: | --: | --: |")
    for name, of in found.items():
        costs = [cost for cost, _ in of]
        rate = median(rate for _, rate in of)
        print(f"| {name} | {median(costs):.1f} | {min(costs):.1f}..{max(costs):.1f} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
