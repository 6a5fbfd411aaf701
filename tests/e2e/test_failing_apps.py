"""Applications that fail, at every point of a request: a 500 or a cut response, one record in the log, no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead

import pytest

from tests.e2e.apps import CONFIG, connect
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

APP = """
import sys


class Body:
    def __init__(self, pieces, error=None, close_error=None):
        self.pieces, self.error, self.close_error = pieces, error, close_error

    def __iter__(self):
        yield from self.pieces
        if self.error:
            raise self.error

    def close(self):
        if self.close_error:
            raise self.close_error


def app(environ, start_response):
    case = environ["PATH_INFO"][1:]
    if case == "before":
        raise RuntimeError("a bug")
    if case == "exit":
        sys.exit("a bug")
    if case == "silent":
        return [b"a bug"]
    if case == "split":
        start_response("200 OK", [("X-Name", "a\\r\\nSet-Cookie: bug=1")])
        return [b"hello"]
    if case == "status":
        start_response("OK", [])
        return [b"a bug"]
    if case == "length":
        start_response("200 OK", [("Content-Length", "6")])
        return [b"a bug"]
    fields = [("Content-Length", "10")] if case.startswith("long ") else []
    start_response("200 OK", fields)
    if case == "after":
        raise RuntimeError("a bug")
    if case == "text":
        return ["a bug"]
    if case == "none":
        return None
    if case == "first":
        return Body([], RuntimeError("a bug"))
    if case == "close":
        return Body([b"hello"], close_error=RuntimeError("a bug"))
    if case == "middle":
        return Body([b"hello"], RuntimeError("a bug"))
    if case == "middle exit":
        return Body([b"hello"], SystemExit("a bug"))
    if case == "middle text":
        return Body([b"hello", "a bug"])
    if case == "long middle":
        return Body([b"hello"], RuntimeError("a bug"))
    if case == "long short":
        return Body([b"hello"])
    if case == "long over":
        return Body([b"hello", b"hello, a bug" * 100_000])  # more than waits in memory for the end
    return [b"fine"]
"""


@pytest.fixture(scope="module")
def shared(serve_module: Serve) -> Server:
    return serve_module(CONFIG, files={"app.py": APP})


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server whose worker lives on after the test, and has said what failed in one record: a line and its stack."""
    (worker,) = shared.workers()
    said = len(shared.stderr)
    yield shared
    assert shared.get().body == b"fine"
    assert shared.workers() == [worker]
    records = re.findall(r"^\S.*", shared.stderr[said:], re.MULTILINE)
    assert len(records) == 1
    assert " error: " in records[0]


@pytest.fixture
def client(server: Server) -> Iterator[HTTPConnection]:
    with closing(connect(server)) as connection:
        yield connection


@pytest.mark.parametrize(
    "case", ["before", "exit", "silent", "split", "status", "length", "after", "text", "none", "first", "long%20short"]
)
def test_a_failure_before_the_head_is_out_is_a_500_and_the_connection_lives_on(
    client: HTTPConnection, case: str
) -> None:
    client.request("GET", f"/{case}")
    response = client.getresponse()
    assert response.status == 500
    assert b"bug" not in response.read()  # what went wrong is for the log alone
    socket = client.sock
    client.request("GET", "/")
    assert client.getresponse().read() == b"fine"
    assert client.sock is socket


@pytest.mark.parametrize("case", ["middle", "middle%20exit", "middle%20text", "long%20middle"])
def test_a_failure_in_mid_body_leaves_a_response_that_is_not_whole(client: HTTPConnection, case: str) -> None:
    client.request("GET", f"/{case}")
    response = client.getresponse()
    assert response.status == 200
    with pytest.raises(IncompleteRead) as error:
        response.read()
    assert error.value.partial == b"hello"


def test_a_body_longer_than_its_length_is_cut_there(client: HTTPConnection) -> None:
    client.request("GET", "/long%20over")
    assert client.getresponse().read() == b"hellohello"


@pytest.mark.parametrize("case", [b"middle", b"middle%20exit"])
def test_a_failure_in_a_body_without_framing_resets_the_connection(server: Server, case: bytes) -> None:
    with pytest.raises(ConnectionResetError):  # a plain end would make the part look like the whole
        server.raw(b"GET /%b HTTP/1.0\r\n\r\n" % case)


def test_a_failing_close_comes_after_a_response_that_is_whole(client: HTTPConnection) -> None:
    client.request("GET", "/close")
    assert client.getresponse().read() == b"hello"
