"""write(), PEP 3333's imperative way out: what is written leaves while the application's call goes on."""

from __future__ import annotations

import gzip
import http.client
import logging
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest

from prefork.errors import ClientGone
from prefork.handlers.apps.response_buffer import MEMORY
from prefork.handlers.apps.wsgi.call import Bounds
from prefork.shared.counters import REQUESTS, STATUS_CLASS
from tests.handlers.apps.live import PATIENCE, live, receive, rest
from tests.handlers.exchange import assert_500, call, exchange, parse, request, wsgi
from tests.handlers.files.file_trees import descriptors, descriptors_at_rest

Environ = dict[str, Any]
Start = Callable[..., Any]
PIECE = bytes(range(256)) * 256
CLOSE = request("/", "Connection: close")


@pytest.fixture(params=[False, True], ids=["inline", "pinned"])
def pinned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def loop_is_touched_by_its_leader_only(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "the loop is touched" not in caplog.text
    assert "crashed" not in caplog.text


# --- when it leaves ---


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("length", [[], [("Content-Length", "10")]], ids=["unsized", "sized"])
def test_each_write_leaves_before_the_call_returns(pinned: bool, threads: int, length: Any) -> None:
    go = threading.Semaphore(0)
    called: list[str] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        called.append(environ["PATH_INFO"])
        write = start_response("200 OK", [("X-A", "1"), *length])
        for piece in (b"first", b"more", b"."):
            write(piece)
            assert go.acquire(timeout=PATIENCE)
        return []

    with live(application, pinned=pinned, threads=threads) as here, here.connect() as client:
        for _ in range(2):
            client.sendall(request("/one"))
            head = receive(client, b"first" if length else b"5\r\nfirst\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nX-A: 1\r\n" in head
            go.release()
            assert receive(client, b"more" if length else b"4\r\nmore\r\n")
            go.release()
            receive(client, b"." if length else b"1\r\n.\r\n")
            go.release()
            if not length:
                assert receive(client, b"0\r\n\r\n") == b"0\r\n\r\n"
    assert called == ["/one", "/one"]  # and by nothing is an application called twice for one request


def test_others_are_served_while_a_call_writes(pinned: bool) -> None:
    met = threading.Event()

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/other":
            met.set()
            return [b"other"]
        write(b"begin")
        assert met.wait(PATIENCE)
        write(b"end")
        return []

    with live(application, pinned=pinned) as here, here.connect(CLOSE) as client:
        receive(client, b"begin\r\n")
        assert parse(rest(here.connect(request("/other", "Connection: close")))).body == b"other"
        assert rest(client) == b"3\r\nend\r\n0\r\n\r\n"


def test_an_empty_write_sends_nothing(pinned: bool) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"")
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())(b"")
        return [b"sorry"]

    answer = parse(exchange(wsgi(application, pinned=pinned), request("/")))
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (503, "5", b"sorry")


@pytest.mark.parametrize(
    ("version", "field"), [("HTTP/1.1", "keep-alive"), ("HTTP/1.1", "close"), ("HTTP/1.0", "close")]
)
@pytest.mark.parametrize("length", [[], [("Content-Length", "6")]], ids=["unsized", "sized"])
def test_the_framing_is_that_of_a_stream_each_time(pinned: bool, version: str, field: str, length: Any) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        write = start_response("200 OK", length)
        write(b"abc")
        return [b"def"]

    for _ in range(5):
        raw = exchange(wsgi(application, pinned=pinned), request("/", f"Connection: {field}", version=version) * 2)
        answer = parse(raw)
        coding = None if length or version == "HTTP/1.0" else "chunked"
        assert (answer.headers["Transfer-Encoding"], answer.headers["Content-Length"], answer.body) == (
            coding,
            "6" if length else None,
            b"abcdef",
        )
        assert bool(answer.rest) == (field == "keep-alive")


# --- in its place among what is returned ---


@pytest.mark.parametrize("rest", [[b"c", b"", b"d"], (b"c", b"d"), iter([b"c", b"d"])], ids=["list", "tuple", "iter"])
def test_what_is_written_comes_before_what_is_returned(rest: Any) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        write(b"b")
        return rest

    assert call(application).body == b"abcd"


@pytest.mark.parametrize("length", [(), (("Content-Length", "2"),)])
@pytest.mark.parametrize("rest", [[], [b""], (), iter(())], ids=["[]", "[b'']", "()", "iterator"])
def test_all_may_be_written_and_nothing_returned(length: Any, rest: Any) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", list(length))(b"ab")
        return rest

    assert call(application).body == b"ab"


@pytest.mark.parametrize("first", [b"", b"0", b"0" * (MEMORY + 1)], ids=["nothing", "little", "much"])
@pytest.mark.parametrize("length", [False, True], ids=["unsized", "sized"])
def test_an_iterable_may_write(pinned: bool, first: bytes, length: bool) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        sizes = [("Content-Length", str(len(first)))] if length and first else []
        write = start_response("200 OK", sizes)
        yield first
        if not sizes:
            for piece in (b"a", b"b", b"c"):
                write(piece.upper())
                yield piece
            write(b"D")

    raw = exchange(wsgi(application, pinned=pinned), request("/") * 2)
    answer = parse(raw)
    assert answer.body == first + (b"" if length and first else b"AaBbCcD")
    assert parse(answer.rest).body == answer.body


def test_a_file_comes_behind_what_is_written(pinned: bool) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", [])(b"begin ")
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))

    with open(__file__, "rb") as file:
        expected = b"begin " + file.read()
    assert parse(exchange(wsgi(application, pinned=pinned), request("/"))).body == expected


def test_an_iterable_is_closed_once_all_is_written(pinned: bool) -> None:
    ends: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"yielded"

        def close(self) -> None:
            ends.append("closed")

    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", [])(b"written, ")
        return Body()

    raw = exchange(wsgi(application, pinned=pinned), request("/", method="POST", body=b"abc") * 2)
    answer = parse(raw)
    assert (answer.body, parse(answer.rest).body) == (b"written, yielded",) * 2
    assert ends == ["closed"] * 2


def test_a_hundred_thousand_small_writes_do_not_slow_down(pinned: bool) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "100000")])
        for _ in range(100_000):
            write(b"x")
        return []

    assert len(parse(exchange(wsgi(application, pinned=pinned), request("/"))).body) == 100_000


# --- where there is to be no body ---


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_what_nobody_is_to_see_is_written_for_nothing_and_the_head_leaves_at_once(
    pinned: bool, method: str, status: str
) -> None:
    go = threading.Event()
    written: list[bytes] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        write = start_response(status, [("X-A", "1")])
        write(PIECE)
        assert go.wait(PATIENCE)
        for _ in range(100):
            write(PIECE)
        written.append(PIECE)
        return iter([b"more"])

    asked = request("/", method=method)
    with live(application, pinned=pinned) as here, here.connect(asked) as client:
        assert receive(client, b"\r\n\r\n").startswith(f"HTTP/1.1 {status}\r\n".encode())
        client.sendall(asked)  # while the first call goes on
        assert parse(receive(client, b"\r\n\r\n"), method).headers["X-A"] == "1"
        go.set()
        here.until(lambda: len(written) == 2)


def test_endless_writing_that_nobody_is_to_see_ends(pinned: bool) -> None:
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"x")
        except OSError as error:
            ends.append(error)
            raise

    handler = wsgi(application, pinned=pinned, bounds=Bounds(unseen_timeout=0.05))
    assert parse(exchange(handler, request("/", method="HEAD")), "HEAD").status == 200
    assert [type(error) for error in ends] == [ClientGone]


# --- what goes wrong ---


@pytest.mark.parametrize("piece", ["text", 7, None, ["x"], bytearray(b"x")])
def test_only_bytes_can_be_written(piece: Any, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            write(piece)
        except Exception as error:
            refused.append(error)
            raise
        return []

    assert_500(application, caplog, f"{type(piece).__name__}, not bytes")
    assert refused


@pytest.mark.parametrize("error", [ValueError("the cause"), SystemExit("the cause"), KeyboardInterrupt("the cause")])
@pytest.mark.parametrize("length", [[], [("Content-Length", "99")]], ids=["unsized", "sized"])
def test_an_error_behind_a_write_cuts_the_response_and_is_logged_once(
    pinned: bool, error: BaseException, length: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", length)(b"ab")
        raise error

    raw = exchange(wsgi(application, pinned=pinned), request("/cut") * 2)
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"\r\n\r\nab" if length else b"\r\n2\r\nab\r\n")
    with pytest.raises(http.client.IncompleteRead):
        parse(raw)
    assert caplog.text.count("GET /cut failed") == 1
    assert "the cause" in caplog.text


def test_an_error_behind_a_write_resets_a_connection_whose_end_would_look_like_the_bodys(pinned: bool) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"ab")
        raise ValueError

    exchange(wsgi(application, pinned=pinned), request("/", version="HTTP/1.0"), resets=True)


def test_once_something_is_written_exc_info_is_raised_again_and_the_response_cut(
    pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    raised: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"the beginning of a page")
        try:
            raise ValueError("the cause")
        except ValueError as error:
            try:
                start_response("503 Sorry", [], sys.exc_info())
            except ValueError as again:
                raised.extend([error, again])
                raise
        return [b"sorry"]

    raw = exchange(wsgi(application, pinned=pinned), request("/"))
    assert raw.endswith(b"the beginning of a page\r\n")
    assert b"orry" not in raw
    assert raised[0] is raised[1]
    assert "the cause" in caplog.text


@pytest.mark.parametrize("length", ["3", "0", "5"])
def test_content_length_holds_for_what_is_written(pinned: bool, length: str, caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", length)])
        write(b"ab")
        write(b"cd")
        return []

    raw = exchange(wsgi(application, pinned=pinned), request("/") * 2)
    assert raw.endswith(b"\r\n\r\n" + b"abcd"[: int(length)])
    assert raw.count(b"HTTP/1.1") == 1  # and the connection is closed
    assert f"Content-Length of {length}" in caplog.text


@pytest.mark.parametrize("header", [("X-A", "1\r\nX-Split: yes"), ("X-A", 1), ("Content-Length", "x")], ids=repr)
def test_an_invalid_head_is_500_and_what_is_written_goes_nowhere(
    pinned: bool, header: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [header])
        try:
            while True:
                write(PIECE)
        except OSError as error:
            ends.append(error)
            raise

    raw = exchange(wsgi(application, pinned=pinned), request("/") * 2)
    answer = parse(raw)
    assert (answer.status, parse(answer.rest).status) == (500, 500)
    assert b"Split" not in raw
    assert [type(error) for error in ends] == [ClientGone] * 2
    assert caplog.text.count("GET / failed: ApplicationError") == 2
    assert "ClientGone" not in caplog.text


@pytest.mark.parametrize("kind", ["a list", "a tuple", "an iterator", "written"])
def test_what_is_written_once_the_response_is_over_is_an_error_and_nobodys(pinned: bool, kind: str) -> None:
    bodies: dict[str, Any] = {"a list": [b"whole"], "a tuple": (b"whole",), "an iterator": iter([b"wh", b"ole"])}

    writes: list[Callable[[bytes], None]] = []

    def application(environ: Environ, start_response: Start) -> Any:
        write = start_response("200 OK", [])
        for late in writes:
            with pytest.raises(Exception, match="over"):
                late(b"late")
        writes.append(write)
        if kind == "written":
            write(b"whole")
            return []
        return bodies[kind] if environ["PATH_INFO"] == "/" else [b"whole"]

    raw = exchange(wsgi(application, pinned=pinned), request("/") + request("/second"))
    first = parse(raw)
    assert (first.body, parse(first.rest).body) == (b"whole", b"whole")
    assert b"late" not in raw
    for write in writes:
        with pytest.raises(Exception, match="over"):
            write(b"late")


def test_the_first_write_is_the_applications_own_threads(pinned: bool) -> None:
    refused: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])

        def help_out(piece: bytes) -> None:
            try:
                write(piece)
            except Exception as error:
                refused.append(error)

        for piece in (b"refused", b"first", b"second"):
            if piece == b"first":
                write(piece)
                continue
            helper = threading.Thread(target=help_out, args=[piece])
            helper.start()
            helper.join()
        return []

    assert parse(exchange(wsgi(application, pinned=pinned), request("/"))).body == b"firstsecond"
    assert ["another thread" in str(error) for error in refused] == [True]


# --- clients that leave, or are slow ---


@pytest.mark.parametrize("length", [[], [("Content-Length", str(1 << 40))]], ids=["unsized", "sized"])
def test_a_client_that_leaves_is_noticed_by_the_next_writes_and_is_no_error(
    pinned: bool, length: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", length)
        try:
            while True:
                write(PIECE)
        except OSError as error:
            ends.append(error)
            raise

    with live(application, pinned=pinned) as here:
        with here.connect(request("/endless")) as client:
            client.recv(1000)
        here.until(lambda: ends)
    assert [type(error) for error in ends] == [ClientGone]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [(entry.target, entry.status) for entry in here.log] == [("/endless", 200)]
    assert here.log[0].sent > here.log[0].head
    assert here.board[REQUESTS] == here.board[STATUS_CLASS + 2] == 1


def test_an_application_may_go_on_once_its_client_has_left(pinned: bool, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(PIECE)
        except OSError:
            done.append("cleaned up")
        return [b"for nobody"]

    with live(application, pinned=pinned) as here:
        with here.connect(request("/")) as client:
            client.recv(1000)
        here.until(lambda: done)
    assert not caplog.records


def test_a_client_that_reads_slowly_slows_the_writer_down_and_costs_little_memory(pinned: bool) -> None:
    disk, count = 8 << 20, 256  # pieces, 16 MiB
    written: list[int] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        for _ in range(count):
            write(PIECE)
            written.append(1)
        return []

    before = descriptors_at_rest()
    tracemalloc.start()
    try:
        with live(application, pinned=pinned, bounds=Bounds(disk=disk)) as here:
            client = here.connect(CLOSE)
            calls = here.pool.calls
            here.until(lambda: (len(written) + 2) * len(PIECE) > disk)
            here.until(lambda: [call.since for call in calls.under_way.values()] == [inf])  # it waits for the client
            assert len(written) < count
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            body = parse(rest(client)).body
    finally:
        tracemalloc.stop()
    assert len(written) == count
    assert body == PIECE * count
    assert descriptors() == before


# --- time-outs ---


BRISK = 0.02  # seconds: the loop's sweep


def test_the_timeout_counts_from_write_to_write(pinned: bool) -> None:
    overdue: list[Any] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        for _ in range(10):
            write(b"x")
            threading.Event().wait(0.05)
        return []

    with live(application, pinned=pinned, timeout=0.3, sweep=BRISK) as here:
        here.pool.calls.overdue = overdue.append
        assert parse(rest(here.connect(CLOSE))).body == b"x" * 10
    assert not overdue


def test_a_call_that_stops_writing_is_cut_short_and_hears_of_it(pinned: bool, caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    overdue: list[Any] = []
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"begin")
        assert go.wait(PATIENCE)
        try:
            write(b"end")
        except OSError as error:
            ends.append(error)
            raise
        return []

    with live(application, pinned=pinned, timeout=0.1, sweep=BRISK) as here:
        here.pool.calls.overdue = overdue.append
        raw = rest(here.connect(request("/slow")))
        go.set()
        here.until(lambda: ends)
        here.until(lambda: not here.pool.calls.under_way)
    assert raw.endswith(b"\r\n5\r\nbegin\r\n")
    assert [type(error) for error in ends] == [ClientGone]
    assert [call.what.target for call in overdue] == ["/slow"]
    assert caplog.text.count("GET /slow failed: ApplicationError") == 1
    assert "ClientGone" not in caplog.text
    assert [(entry.target, entry.status) for entry in here.log] == [("/slow", 200)]


def test_what_is_written_after_the_client_has_had_its_504_goes_nowhere(
    pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        assert go.wait(PATIENCE)
        try:
            while True:
                write(PIECE)
        except OSError as error:
            ends.append(error)
            raise

    with live(application, pinned=pinned, timeout=0.1, sweep=BRISK) as here:

        def give_up(call: Any) -> None:
            assert here.pool.calls.away.get(call.task) is call
            next(one for one in here.server.connections if one.task is call.task).give_up()

        here.pool.calls.overdue = give_up
        raw = rest(here.connect(request("/slow")))
        go.set()
        here.until(lambda: ends)
        here.until(lambda: not here.pool.calls.under_way)
    assert parse(raw).status == 504
    assert parse(raw).rest == b""
    assert [(entry.target, entry.status) for entry in here.log] == [("/slow", 504)]
    assert "ClientGone" not in caplog.text


# --- with what else there is ---


def test_what_is_written_is_compressed_as_a_stream_is(pinned: bool) -> None:
    go = threading.Event()

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"begin " * 1000)
        assert go.wait(PATIENCE)
        write(b"end")
        return []

    with live(application, pinned=pinned, compressed=True) as here:
        client = here.connect(request("/", "Accept-Encoding: gzip", "Connection: close"))
        head = receive(client, b"\r\n")
        go.set()
        answer = parse(head + rest(client))
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(answer.body) == b"begin " * 1000 + b"end"


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("read", [0, 1, 5], ids=["before", "between", "after"])
def test_the_request_may_be_read_while_the_response_is_written(pinned: bool, buffered: bool, read: int) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        read_at_first = [environ["wsgi.input"].read(1) for _ in range(read)]
        write = start_response("200 OK", [])
        for piece in read_at_first:
            write(piece)
        write(b"-")
        while piece := environ["wsgi.input"].read(1):
            write(piece)
        return [b"."]

    with live(application, pinned=pinned, buffered=buffered) as here, here.connect() as client:
        for _ in range(2):
            client.sendall(request("/", "Content-Length: 5", method="POST") + (b"a" if not buffered else b"abcde"))
            received = b""
            while not buffered and read < 5 and b"-" not in received.partition(b"\r\n\r\n")[2]:
                received += receive(client, b"\r\n")
            client.sendall(b"" if buffered else b"bcde")  # once the response has begun
            received += receive(client, b"0\r\n\r\n")
            body = b"abcde"
            assert parse(received).body == body[:read] + b"-" + body[read:] + b"."


def test_an_answer_that_is_written_while_the_request_comes_is_cut_where_that_breaks_off(
    pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])(b"begin")
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            ends.append(error)
            raise
        return [b"end"]

    with live(application, pinned=pinned, buffered=False) as here:
        client = here.connect(request("/", "Content-Length: 9", method="POST") + b"half")
        receive(client, b"begin\r\n")
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b""
        here.until(lambda: ends)
    assert "Traceback" not in caplog.text


def test_many_clients_write_at_once(pinned: bool) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        for number in range(50):
            write(b"%b %d\n" % (environ["PATH_INFO"].encode(), number))
        return []

    with live(application, pinned=pinned, threads=4) as here:
        clients = [here.connect(request(f"/{number}") * 5) for number in range(20)]
        for number, client in enumerate(clients):
            with client:
                received = b""
                while received.count(b"\r\n0\r\n\r\n") < 5:
                    received += receive(client, b"\r\n0\r\n\r\n")
                answer = parse(received)
                for _ in range(5):
                    assert answer.body == b"".join(b"/%d %d\n" % (number, line) for line in range(50))
                    answer = parse(answer.rest) if answer.rest else answer
        here.until(lambda: len(here.log) == 100)
    assert here.board[REQUESTS] == here.board[STATUS_CLASS + 2] == 100
