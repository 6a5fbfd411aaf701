"""The corpus: raw requests in tests/corpus, one a file. A valid one gets one 200; an invalid one the status that its
file's name begins with, whatever comes after it, and however its bytes arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from prefork.http.message import Request, Response
from tests.http.conftest import GET, World
from tests.http.h1.oracle import answers, requests

Make = Callable[..., World]

CORPUS = Path(__file__).parents[2] / "corpus"
LIMITS = {"max_head": 2048, "max_body": 4096}  # what its files are made for
PIECE = 7  # bytes


def files(kind: str) -> pytest.MarkDecorator:
    """The test once for each file of a kind."""
    paths = sorted((CORPUS / kind).glob("*.http"))
    assert paths, "an empty corpus would let every test pass"
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


arrivals = pytest.mark.parametrize("size", [1 << 20, PIECE], ids=["at once", "in pieces"])


@arrivals
@files("valid")
def test_a_valid_request_is_answered_and_read_as_h11_reads_it(world: Make, path: Path, size: int) -> None:
    data = path.read_bytes()
    read: list[tuple[str, str, bytes]] = []

    async def keep(request: Request) -> Response:
        with await request.body.spool() as file:
            read.append((request.method, request.target, file.read()))
        return Response(200, (), b"ok")

    peer = world(keep, **LIMITS).connect()
    peer.send(*cut(data, size))
    peer.shutdown()
    found = answers(peer.rest(), [data.split()[0].decode()])
    assert [answer.status for answer in found if answer.status != 100] == [200]
    assert read == [(asked.method, asked.target, asked.body) for asked in requests(data, skip=b"\r\n")]


@arrivals
@files("invalid")
def test_an_invalid_request_gets_its_status_and_nothing_after_it_is_read(world: Make, path: Path, size: int) -> None:
    here = world(read_all, **LIMITS)
    peer = here.connect()
    with suppress(ConnectionResetError, BrokenPipeError):  # one that goes on after its answer
        peer.send(*cut(path.read_bytes() + GET, size))
    (answer,) = answers(peer.rest(), ["GET"])  # the server ends it: this client did not say that it is done
    assert answer.status == int(path.stem[:3])
    assert answer.headers["connection"] == "close"
    assert len(here.log) == 1


async def read_all(request: Request) -> Response:
    """A body is looked at only when it is read."""
    with await request.body.spool():
        return Response(200)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
