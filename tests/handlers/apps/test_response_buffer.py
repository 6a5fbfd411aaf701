"""The buffer: what one thread puts, the loop sends in that order, and neither waits longer than it must."""

from __future__ import annotations

import os
import threading
from math import inf
from time import monotonic

import pytest

from prefork.errors import ApplicationError
from prefork.handlers.apps.response_buffer import ResponseBuffer
from prefork.http.message import Headers, Request, RequestLine
from prefork.runtime.calls import Call
from tests.conftest import eventually
from tests.handlers.exchange import CLIENT
from tests.handlers.files.file_trees import NoBody
from tests.runtime.thread_pools import Ship

DISK = 100


def small_buffer(ship: Ship, call: Call | None = None) -> ResponseBuffer:
    """One with 10 bytes of memory."""
    return ResponseBuffer(ship.pool, call or a_call(), memory=10, disk=DISK)


async def close(*buffers: ResponseBuffer) -> None:
    for buffer in buffers:
        await buffer.aclose()


def a_call(timeout: float = 0) -> Call:
    line = RequestLine("GET", "/late", "/late", "", "", 1)
    return Call(Request(line, Headers({}), NoBody(), CLIENT), timeout)


def producing(buffer: ResponseBuffer, pieces: list[bytes], error: BaseException | None = None) -> threading.Thread:
    def produce() -> None:
        for piece in pieces:
            if not buffer.put(piece):
                break
        buffer.end(error)

    thread = threading.Thread(target=produce)
    thread.start()
    return thread


def collect(pieces: list[bytes], error: BaseException | None = None) -> bytes:
    """All that comes out of an buffer."""
    ship = Ship()
    received: list[bytes] = []

    async def main() -> None:
        buffer = small_buffer(ship)
        thread = producing(buffer, pieces, error)
        try:
            async for piece in buffer:
                received.append(piece)
        finally:
            thread.join()
            assert buffer.size == 0
            assert buffer._file is None
            await buffer.aclose()

    ship.run(main())
    return b"".join(received)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 99, 1000])
def test_pieces_come_in_order_through_memory_file_and_bound(length: int) -> None:
    pieces = [b"%d," % number * length for number in range(30)]
    assert collect(pieces) == b"".join(pieces)


def test_an_error_comes_after_what_was_put_before_it() -> None:
    with pytest.raises(ValueError, match="the cause"):
        collect([b"some"], ValueError("the cause"))


def test_it_is_whole_where_all_is_in_memory() -> None:
    ship = Ship()
    small, big = small_buffer(ship), small_buffer(ship)
    producing(small, [b"12345", b"67890"]).join()
    producing(big, [b"12345", b"678901"]).join()
    assert (small.whole, small.size) == (True, 10)
    assert (big.whole, big.size) == (False, 11)
    ship.run(close(small, big))


def test_memory_comes_first_then_the_file_then_memory_again() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    buffer.put(b"12345678")
    buffer.put(b"in the file")
    assert [buffer.take(), buffer.take(), buffer.take()] == [b"12345678", b"in the fil", b"e"]
    buffer.put(b"again")
    assert buffer._file is None
    assert buffer.take() == b"again"
    ship.run(close(buffer))


def blocked(buffer: ResponseBuffer) -> threading.Thread:
    thread = producing(buffer, [b"x" * 101, b"never"])
    eventually(lambda: buffer.size == 101 and buffer._lock._waiters)  # type: ignore[attr-defined]
    assert thread.is_alive()
    return thread


def test_beyond_the_bound_the_thread_waits_until_all_is_taken() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    thread = blocked(buffer)
    for _ in range(10):
        assert buffer.take() == b"x" * 10
        assert thread.is_alive()
    assert buffer.take() == b"x"
    thread.join(5)
    assert not thread.is_alive()
    ship.run(close(buffer))


def test_a_client_that_is_a_little_slower_does_not_make_the_file_grow() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    pieces = [b"%06d" % number for number in range(200)]
    thread = producing(buffer, pieces)
    received, lengths = b"", [0]

    def slower() -> bool:
        return buffer._ended or buffer.size > 20 or bool(buffer._lock._waiters)  # type: ignore[attr-defined]

    while not buffer._ended or buffer.size:
        eventually(slower)
        if buffer._file is not None:
            lengths.append(os.fstat(buffer._file.fileno()).st_size)
        received += buffer.take()
    thread.join(5)
    assert received == b"".join(pieces)
    assert 50 < max(lengths) <= DISK + 6
    ship.run(close(buffer))


def test_whoever_waits_is_let_go_when_nobody_wants_it_any_more() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    thread = blocked(buffer)
    ship.run(close(buffer))
    thread.join(5)
    assert not thread.is_alive()
    assert not buffer.put(b"more")
    assert (buffer.size, buffer._file, buffer.whole) == (0, None, False)


def test_a_piece_that_comes_while_it_is_closed_is_dropped() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    ship.run(close(buffer))
    buffer._add(b"x" * 50)
    assert (buffer.size, buffer._file) == (0, None)


def test_a_full_disk_does_not_keep_a_closed_outbox_from_letting_go() -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    buffer._file = open("/dev/full", "wb")  # noqa: SIM115
    thread = blocked(buffer)
    ship.run(close(buffer))
    thread.join(5)
    assert not thread.is_alive()


def test_an_abandoned_call_ends_the_response_after_what_was_put() -> None:
    ship = Ship()
    call = a_call(0.05)

    async def main() -> None:
        buffer = small_buffer(ship, call)
        buffer.put(b"first")
        call.abandoned = True
        chunks = buffer.__aiter__()
        assert await chunks.__anext__() == b"first"
        with pytest.raises(ApplicationError, match=r"no more of the response for 0\.05 s"):
            await chunks.__anext__()

    ship.run(main())


def test_a_thread_that_waits_for_the_client_does_not_take_too_long() -> None:
    ship = Ship()
    call = a_call(0.05)
    buffer = small_buffer(ship, call)
    thread = blocked(buffer)
    assert call.since == inf
    ship.run(close(buffer))
    thread.join(5)
    assert call.since <= monotonic()


@pytest.mark.parametrize("closed_first", [False, True])
def test_an_error_that_nobody_hears_of_is_logged(closed_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship()
    buffer = small_buffer(ship)
    if closed_first:
        ship.run(close(buffer))
        buffer.end(ValueError("the cause"))
    else:
        buffer.end(ValueError("the cause"))
        ship.run(close(buffer))
    assert caplog.text.count("ValueError: the cause") == 1
    assert "GET /late failed" in caplog.text
