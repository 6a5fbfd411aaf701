"""The load generator tells the truth about a server that stalls, closes or fails."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.bench.generator import Kind, closed_loop, is_whole, open_loop, percentile

STALL = 0.4  # seconds
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
FAST = Kind("fast", ("/",))


class Fake:
    """A server in a thread, which has each request answered by `answer(path)`; b"" closes the connection instead."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector, self.listener:
            selector.register(self.listener, selectors.EVENT_READ)
            while not self.stopping.is_set():
                for key, _ in selector.select(0.05):
                    other = key.fileobj
                    assert isinstance(other, socket.socket)
                    if other is self.listener:
                        selector.register(other.accept()[0], selectors.EVENT_READ)
                    elif not ((data := other.recv(4096)) and (reply := self.answer(data.split()[1].decode()))):
                        selector.unregister(other)
                        other.close()
                    else:
                        other.sendall(reply)
            for key in [*selector.get_map().values()]:
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    def close(self) -> None:
        self.stopping.set()
        self.thread.join()


@pytest.fixture
def fake() -> Iterator[Callable[[Callable[[str], bytes]], int]]:
    """Starts a Fake, whose port it returns."""
    servers: list[Fake] = []

    def start(answer: Callable[[str], bytes]) -> int:
        servers.append(Fake(answer))
        return servers[-1].port

    yield start
    for server in servers:
        server.close()


Start = Callable[[Callable[[str], bytes]], int]


def stalling(after: float) -> Callable[[str], bytes]:
    """Answers at once, but for one stall so many seconds after the first request."""
    began: list[float] = []

    def answer(path: str) -> bytes:
        began.append(time.monotonic())
        if len(began) > 1 and began[-1] - began[0] > after and not stalled.is_set():
            stalled.set()
            time.sleep(STALL)
        return ANSWER

    stalled = threading.Event()
    return answer


@pytest.mark.parametrize("even", [True, False])
def test_a_stall_shows_in_the_latencies_of_all_requests_that_were_due_meanwhile(fake: Start, even: bool) -> None:
    result = open_loop(fake(stalling(0.2)), [FAST], rate=200, connections=4, seconds=0.9, warm_up=0.0, even=even)
    assert 120 < len(result.spans["fast"]) < 250
    waited = [done - since for since, done in result.spans["fast"]]
    # Evenly spread over the stall: half of those that were due in it waited for half of it.
    assert len([one for one in waited if one > STALL / 2]) > 0.6 * 200 * STALL / 2
    assert result.latency("fast", 99) > 0.8 * STALL
    assert result.unanswered == 0
    assert result.failed == []


def test_a_closed_loop_hides_the_stall(fake: Start) -> None:
    result = closed_loop(fake(stalling(0.2)), [FAST], connections=4, seconds=0.8, warm_up=0.0)
    assert 4 <= len([1 for since, done in result.spans["fast"] if done - since > STALL / 2]) <= 8
    assert result.latency("fast", 99) < STALL / 2


def test_kinds_come_by_their_shares_and_have_latencies_of_their_own(fake: Start) -> None:
    def answer(path: str) -> bytes:
        if path.startswith("/slow"):
            time.sleep(0.02)
        paths.append(path)
        return ANSWER

    paths: list[str] = []
    kinds = [Kind("fast", ("/",), 0.9), Kind("slow", ("/slow/1", "/slow/2"), 0.1)]
    result = open_loop(fake(answer), kinds, rate=200, connections=8, seconds=0.7, warm_up=0.0)
    assert len(paths) == len(result.spans["fast"]) + len(result.spans["slow"])
    assert 3 <= len(result.spans["slow"]) <= 30
    assert {"/slow/1", "/slow/2"} < set(paths)
    assert result.latency("slow", 0) >= 0.02


def test_the_rate_of_a_closed_loop_is_what_the_server_takes(fake: Start) -> None:
    def answer(path: str) -> bytes:
        time.sleep(0.02)
        return ANSWER

    result = closed_loop(fake(answer), [FAST], connections=4, seconds=0.5, warm_up=0.1)
    assert 10 < result.rate <= 50
    assert result.latency("fast", 50) > 0.06
    assert result.busy < 0.5


def test_a_kept_connection_that_the_server_closes_is_replaced_and_the_request_repeated(fake: Start) -> None:
    def answer(path: str) -> bytes:
        number[0] += 1
        return b"" if number[0] % 10 == 0 else ANSWER

    number = [0]
    result = open_loop(fake(answer), [FAST], rate=200, connections=2, seconds=0.5, warm_up=0.0)
    assert number[0] > 20
    assert result.failed == []
    assert result.unanswered == 0


def test_an_answer_that_is_not_200_is_a_failure_and_has_no_latency(fake: Start) -> None:
    def answer(path: str) -> bytes:
        return ANSWER.replace(b"200 OK", b"503 Busy") if path == "/busy" else ANSWER

    kinds = [FAST, Kind("busy", ("/busy",))]
    result = open_loop(fake(answer), kinds, rate=100, connections=2, seconds=0.5, warm_up=0.0)
    assert result.spans["busy"] == []
    assert result.failed
    assert result.failed[0].startswith("busy got b'HTTP/1.1 503 Busy")
    assert result.spans["fast"]


def test_requests_without_an_answer_count_with_the_time_they_have_waited(
    fake: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.generator.TIMEOUT", 0.3)

    def answer(path: str) -> bytes:
        return b"HTTP/1.1 200 OK\r\n"

    result = open_loop(fake(answer), [FAST], rate=50, connections=2, seconds=0.3, warm_up=0.0, even=True)
    assert result.unanswered == len(result.spans["fast"]) == 14
    assert result.latency("fast", 0) > 0.25


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nA: b\r\n\r\nh", False),
        (b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:2\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
    ],
)
def test_a_response_is_whole_by_its_length_or_its_last_chunk(data: bytes, whole: bool) -> None:
    assert is_whole(data) is whole


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 20, 50, 99, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]
