"""Random bytes against a real Connection: `python tests/fuzz/requests.py --seconds 60 [--seed 1]`.

Each run takes requests of the corpus through a few accidents, sends them in random pieces, and checks what must hold
whatever comes: nothing is logged, every answer is well framed, nothing is taken that h11 reads otherwise, and the
connection ends, with nothing left of it. The bytes that break this are written to a file, which can join tests/corpus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import h11
import psutil
import pytest

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of this folder

from prefork.http.h1.connection import CLIENT_LEFT  # noqa: E402
from prefork.http.message import Request, Response  # noqa: E402
from tests.http.conftest import Pieces, World  # noqa: E402
from tests.http.h1.oracle import LIMIT, answers  # noqa: E402

BATCH = 200  # runs that share a World: it looks for what they have left behind when it closes
LONGEST = 16384  # bytes of a run: below what a socket takes without being read
LIMITS = {"max_head": 2048, "max_body": 4096}
EMPTY_LINE = b"\r\n"  # one is skipped before a request line (RFC 9112 §2.2), which h11 does not do
WORDS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-", b"+", b"_", b"%", b"\r\n\r\n"]
WORDS += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"HTTP/1.0"]
WORDS += [b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]

# ---- accidents


def flip(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Turn over a bit."""
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def insert(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Put in a word, or any byte."""
    at = random.randint(0, len(data))
    data[at:at] = random.choice([random.choice(WORDS), random.randbytes(1)])


def delete(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Take out some bytes, but never all of them."""
    start = random.randrange(len(data))
    del data[max(1, start) : start + random.randint(1, 8)]


def duplicate(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Say something twice: a few bytes, or a line."""
    start = random.randrange(len(data))
    end = start + random.randint(1, 40)
    if random.random() < 0.5:
        start, end = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", start) + 1 or len(data)
    data[start:start] = data[start:end]


def splice(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Go on with the end of another request."""
    other = random.choice(corpus)
    data[random.randint(1, len(data)) :] = other[random.randrange(len(other)) :]


def append(random: Random, data: bytearray, corpus: list[bytes]) -> None:
    """Go on with another request."""
    data += random.choice(corpus)


ACCIDENTS = (flip, insert, delete, duplicate, splice, append)


def mutated(random: Random, corpus: list[bytes]) -> bytes:
    data = bytearray(random.choice(corpus))
    for _ in range(random.randint(0, 5)):
        random.choice(ACCIDENTS)(random, data, corpus)
    return bytes(data[:LONGEST])


def cut(random: Random, data: bytes) -> list[bytes]:
    """`data` in at most nine pieces."""
    places = sorted(random.choices(range(len(data) + 1), k=random.randint(0, 8)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


# ---- what is asked


def heard(data: bytes) -> list[tuple[str, str, bytes]]:
    """Method, target and body of each request that h11 reads; the last one's body may be cut short or broken."""
    found = []
    while data := data.removeprefix(EMPTY_LINE):
        server = h11.Connection(h11.SERVER, LIMIT)
        server.receive_data(data)
        asked: Any = None
        event: Any = None
        body = b""
        with suppress(h11.RemoteProtocolError):
            asked = event = server.next_event()
            while isinstance(event, (h11.Request, h11.Data)):
                event = server.next_event()
                body += bytes(event.data) if isinstance(event, h11.Data) else b""
        if isinstance(asked, h11.Request):
            found.append((asked.method.decode(), asked.target.decode(), body))
        if not isinstance(event, h11.EndOfMessage):
            break
        data = server.trailing_data[0]
    return found


class Subject:
    """A World of `BATCH` connections. `taken` is what its handler got of the run: the body is None where not read."""

    def __init__(self) -> None:
        self.world = World(self.handle, **LIMITS)
        self.taken: list[tuple[str, str, bytes | None]] = []
        self.descriptors = psutil.Process().num_fds()

    async def handle(self, request: Request) -> Response:
        """In one of four ways, as the target's length has it."""
        way = len(request.target) % 4
        body = None if way == 0 else b"".join([piece async for piece in request.body.chunks()])
        self.taken.append((request.method, request.target, body))
        if way == 1:
            return Response(200, (), Pieces(b"a", b"", b"bc"))
        if way == 2:
            return Response(200, (("Content-Length", "3"),), Pieces(b"a", b"bc"))
        return Response(200, (), b"abc")

    def run(self, data: bytes, pieces: list[bytes]) -> None:
        """Raises AssertionError, or whatever else, where something is wrong."""
        world = self.world
        self.taken.clear()
        world.log.clear()
        peer = world.connect(tcp=False)
        with suppress(OSError):  # the server has ended it
            peer.send(*pieces)
        peer.shutdown()
        while not peer.ended:
            with suppress(ConnectionResetError):  # says, once, that the server left something unread
                peer.until(lambda: peer.ended, "the end of the connection")
        peer.close()
        peer.until_gone()
        assert not world.errors, world.errors[0].getMessage()
        assert not world.server.connections, "a connection that is left"
        assert psutil.Process().num_fds() <= self.descriptors, "descriptors that are left"
        self.judge(data, peer.got)

    def judge(self, data: bytes, got: bytes) -> None:
        """Hold what was taken against what h11 hears, and what was answered against what was taken."""
        log = self.world.log
        asked = [request.method or "GET" if request else "GET" for _, request, *_ in log]
        left = bool(log) and log[-1][2] == CLIENT_LEFT  # in mid-body, maybe with a 100 that nothing follows
        statuses = [answer.status for answer in answers(got, asked, partial=left) if answer.status != 100]
        assert statuses[: len(self.taken)] == [200] * len(self.taken)
        assert len(statuses) <= len(self.taken) + 1, "more than one refusal"
        assert all(400 <= status <= 505 and status != 500 for status in statuses[len(self.taken) :])
        reference = heard(data)
        assert len(self.taken) <= len(reference), f"{self.taken[len(reference)]} is not heard by h11"
        for ours, theirs in zip(self.taken, reference, strict=False):
            assert ours in (theirs, (*theirs[:2], None))


# ---- the runs


class Broken(Exception):
    """Something did not hold. `data` is what was sent last."""

    def __init__(self, run: int, data: bytes) -> None:
        super().__init__(f"run {run}")
        self.data = data


def fuzz(seconds: float, seed: int) -> int:
    """How many runs were made. Raises Broken, from what was wrong."""
    corpus = [path.read_bytes() for path in sorted((ROOT / "tests" / "corpus").glob("*/*.http"))]
    random = Random(seed)
    until = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < until:
        subject = Subject()
        data = b""
        try:
            for _ in range(BATCH):
                runs += 1
                data = mutated(random, corpus)
                subject.run(data, cut(random, data))
            subject.world.close()
        except (Exception, pytest.fail.Exception) as error:
            raise Broken(runs, data) from error
    return runs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Random bytes against a connection of the server.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="for the same runs again")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        runs = fuzz(options.seconds, options.seed)
    except Broken as broken:
        traceback.print_exception(broken)
        with tempfile.NamedTemporaryFile(prefix="prefork-", suffix=".http", delete=False) as file:
            file.write(broken.data)
        print(f"seed {options.seed}, {broken}: {file.name}")
        return 1
    print(f"seed {options.seed}: {runs} runs, {runs / (time.monotonic() - began):.0f}/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
