"""A crowd of clients in one thread, each of which asks again as soon as it has its answer, or but once.

Latencies are counted from the beginning of the connection, or from the request, to the last byte of the answer.
"""

from __future__ import annotations

import selectors
import socket
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

REQUEST = b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n"


@dataclass(eq=False)
class Guest:
    """One client; `stays` for more than one answer. `waits` are the seconds for each; `body` is that of the last."""

    socket: socket.socket
    stays: bool
    began: float
    waits: list[float] = field(default_factory=list)
    body: bytes = b""
    data: bytes = b""


class Crowd:
    """Clients of 127.0.0.1:`port` that ask for `path`."""

    def __init__(self, port: int, path: str = "/") -> None:
        self._address = ("127.0.0.1", port)
        self._request = REQUEST % path.encode()
        self._selector = selectors.DefaultSelector()
        self.guests: list[Guest] = []

    def join(self, count: int, *, stay: bool) -> list[Guest]:
        """So many new clients, all at once: each connects and sends its first request without waiting."""
        come = []
        for _ in range(count):
            began = monotonic()
            client = socket.create_connection(self._address, 30)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(self._request)
            client.setblocking(False)
            come.append(Guest(client, stay, began))
        for guest in come:
            self._selector.register(guest.socket, selectors.EVENT_READ, guest)
        self.guests += come
        return come

    def run(self, seconds: float, until: list[Guest] | None = None) -> None:
        """Serve as clients for so long at most, and no longer than every one in `until` has had an answer."""
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0 and not (until and all(guest.waits for guest in until)):
            for key, _ in self._selector.select(min(left, 0.1)):
                self._read(key.data)

    def forget(self) -> None:
        """Begin the record anew."""
        for guest in self.guests:
            guest.waits.clear()

    def close(self) -> None:
        for guest in self.guests:
            guest.socket.close()
        self._selector.close()

    def _read(self, guest: Guest) -> None:
        """Raises ConnectionError where the server has closed, as none of these is to be turned away."""
        piece = guest.socket.recv(65536)
        if not piece:
            raise ConnectionResetError("a server has closed a connection without an answer")
        guest.data += piece
        head, end, body = guest.data.partition(b"\r\n\r\n")
        if not end or not head.startswith(b"HTTP/1.1 200 ") or len(body) < _length(head):
            return
        now = monotonic()
        guest.waits.append(now - guest.began)
        guest.body, guest.data = body, b""
        if guest.stays:
            guest.began = now
            guest.socket.sendall(self._request)
        else:
            self._selector.unregister(guest.socket)
            guest.socket.close()


def _length(head: bytes) -> int:
    fields = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in fields if line.startswith(b"content-length:")), 0)


def latencies(guests: list[Guest]) -> list[float]:
    """All of them, in order, in seconds."""
    return sorted(seconds for guest in guests for seconds in guest.waits)


def quantile(values: list[float], share: float) -> float:
    """Of sorted values; NaN where there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def shares(guests: list[Guest]) -> Counter[bytes]:
    """How many of them each worker has, which an answer's body names."""
    return Counter(guest.body for guest in guests if guest.body)
