"""A connection's conversation: persistence, order, half-close, what is counted and recorded."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from prefork.http.message import Request, Response
from prefork.runtime.task import PAUSE
from prefork.shared.counters import REQUESTS, SENT, STATUS_CLASS
from tests.http.conftest import GET, WHO, World, answering, echo, ignore
from tests.http.h1.oracle import answers

Make = Callable[..., World]

# ---- persistence: RFC 9112 §9.3


@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
def test_http_1_1_lives_on(world: Make, tcp: bool) -> None:
    peer = world().connect(tcp)
    for _ in range(3):
        peer.send(GET)
        answer = peer.answer()
        assert (answer.status, answer.body) == (200, b"/")
        assert answer.headers["connection"] == "keep-alive"
    assert not peer.ended


def test_http_1_1_ends_when_the_client_says_close(world: Make) -> None:
    peer = world().connect()
    peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answers(peer.rest(), ["GET"])[0].headers["connection"] == "close"


def test_http_1_0_ends(world: Make) -> None:
    peer = world().connect()
    peer.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = answers(peer.rest(), ["GET"])[0]
    assert (answer.body, answer.headers["connection"]) == (b"/", "close")


def test_http_1_0_lives_on_when_the_client_says_keep_alive(world: Make) -> None:
    peer = world().connect()
    for _ in range(3):
        peer.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = peer.answer()
        assert (answer.body, answer.headers["connection"]) == (b"/", "keep-alive")
    assert not peer.ended


def test_the_application_may_end_it(world: Make) -> None:
    peer = world(answering(lambda request: Response(200, (("Connection", "close"),), b"bye"))).connect()
    peer.send(GET)
    assert answers(peer.rest(), ["GET"])[0].headers["connection"] == "close"


def test_a_client_that_was_told_close_and_had_sent_more_reads_its_answer(world: Make) -> None:
    """RFC 9112 §9.6: a close with unread input would be a reset, which takes the answer away."""

    async def handle(request: Request) -> Response:
        peer.socket.send(GET)
        return Response(200, (("Connection", "close"),), b"bye")

    peer = world(handle).connect()
    peer.send(GET)
    assert answers(peer.rest(), ["GET"])[0].body == b"bye"


def test_nothing_is_answered_after_a_last_request(world: Make) -> None:
    data = (
        GET + b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + b"GET /more HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert [answer.body for answer in world().talk(data, "GET GET GET")] == [b"/", b"/last"]


def test_an_empty_line_between_requests_is_ignored(world: Make) -> None:
    """RFC 9112 §2.2: some clients send one after a body."""
    assert [answer.body for answer in world().talk(GET + b"\r\n" + GET, "GET GET")] == [b"/", b"/"]


# ---- order: RFC 9112 §9.3.2


def test_pipelined_requests_are_answered_in_order(world: Make) -> None:
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(300))
    bodies = [answer.body for answer in world().talk(data, "GET " * 300)]
    assert bodies == [b"/%d" % number for number in range(300)]


def test_a_request_is_handed_over_when_the_one_before_it_is_answered(world: Make) -> None:
    """So an application never has two of one client at a time."""
    under_way = most = 0

    async def handle(request: Request) -> Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await PAUSE
        under_way -= 1
        return Response(200)

    assert len(world(handle).talk(GET * 5, "GET " * 5)) == 5
    assert most == 1


def test_a_pipeline_lets_others_have_their_turn(world: Make) -> None:
    order: list[str] = []

    def make(request: Request) -> Response:
        order.append(request.target)
        return Response(200)

    here = world(answering(make))
    greedy, modest = here.connect(), here.connect()
    modest.socket.send(b"GET /modest HTTP/1.1\r\nHost: a\r\n\r\n")
    greedy.socket.send(GET * 100)
    here.until(lambda: "/modest" in order and len(order) > 20, "both")
    assert order.index("/modest") < 10


def test_a_request_in_single_bytes(world: Make) -> None:
    peer = world(echo).connect()
    data = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET
    peer.send(*[data[index : index + 1] for index in range(len(data))])
    assert [peer.answer().body, peer.answer().body] == [b"abc", b""]


def test_a_pipeline_cut_anywhere_is_answered_the_same(world: Make) -> None:
    data = GET + b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + GET
    here = world(echo)
    for cut in range(1, len(data)):
        peer = here.connect(tcp=False)
        peer.send(data[:cut], data[cut:])
        assert [peer.answer().body for _ in range(3)] == [b"", b"hello", b""]
        peer.close()


# ---- a client that leaves


@pytest.mark.parametrize(
    "data", [b"", b"G", b"GET / HTTP/1.1\r\n", GET[:-1], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"]
)
def test_a_client_that_leaves_early_gets_no_answer(world: Make, data: bytes) -> None:
    here = world(echo)
    assert here.talk(data, "GET") == []
    assert [entry.status for entry in here.log] == ([499] if data.startswith(b"POST") else [])


def test_a_client_that_has_said_all_gets_its_answers(world: Make) -> None:
    """Half-close is no reason to drop what was asked."""

    async def handle(request: Request) -> Response:
        for _ in range(5):
            await PAUSE
        return Response(200, (), b"still here")

    assert [answer.body for answer in world(handle).talk(GET * 2, "GET GET")] == [b"still here"] * 2


def test_a_client_that_resets_is_an_event_not_a_fault(world: Make) -> None:
    here = world(answering(lambda request: Response(200, (), b"x" * 10_000_000)))
    for data in (b"", b"GET", GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"):
        peer = here.connect()
        peer.send(data)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        peer.until_gone()
    assert here.server.connections == set()


# ---- HEAD, 204, 304


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_what_has_no_body_gets_none(world: Make, method: str, status: int) -> None:
    """RFC 9110 §6.4.1; h11 would take it for the beginning of the next response."""
    here = world(answering(lambda request: Response(status, (), b"abc")))
    found = here.talk(GET.replace(b"GET", method.encode()) * 3, f"{method} " * 3)
    assert [answer.body for answer in found] == [b"abc" if (method, status) == ("GET", 200) else b""] * 3


# ---- counters and the access log


def test_what_is_answered_is_counted_and_recorded(world: Make) -> None:
    here = world(answering(lambda request: Response(int(request.path[1:]), (), b"12345")))
    peer = here.connect()
    sizes = []
    for status in (200, 404, 404, 503, 301, 204):
        peer.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % status)
        sizes.append(len(peer.take(b"\r\n\r\n")) + 5 * (status != 204))
        peer.until(lambda: len(peer.got) == 5 * (status != 204), "the body")  # noqa: B023
        peer.got = b""
        here.until(lambda: len(here.log) == len(sizes), "the record")
        client, request, recorded, _, sent, seconds = here.log[-1]
        assert client is WHO
        assert request is not None
        assert (request.target, recorded, sent) == (f"/{status}", status, sizes[-1])
        assert 0 <= seconds < 10
    assert here.board[REQUESTS] == 6
    assert [here.board[STATUS_CLASS + kind] for kind in (2, 3, 4, 5)] == [2, 1, 2, 1]
    assert here.board[SENT] == sum(sizes)


def test_what_is_refused_is_counted_and_recorded(world: Make) -> None:
    here = world(ignore, max_body=10)
    sizes = []
    for data in (b"nonsense\r\n\r\n", b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"):
        peer = here.connect()
        peer.send(data)
        peer.shutdown()
        sizes.append(len(peer.rest()))
        peer.until_gone()
    assert [(entry.request and entry.request.target, entry.status, entry.sent) for entry in here.log] == [
        ("nonsense", 400, sizes[0]),
        ("/big", 413, sizes[1]),
    ]
    assert here.board[REQUESTS] == here.board[STATUS_CLASS + 4] == 2
    assert here.board[SENT] == sum(sizes)


def test_the_time_recorded_is_that_of_the_handler(world: Make) -> None:
    async def handle(request: Request) -> Response:
        await here.loop.sleep(0.05)
        return Response(200)

    here = world(handle)
    here.talk(GET)
    assert here.log[0].seconds >= 0.05


def test_a_server_without_an_access_log_records_nothing(world: Make) -> None:
    here = world()
    here.server.record = None
    here.talk(GET)
    here.talk(b"nonsense\r\n\r\n")
    assert here.log == []


def test_an_answer_has_the_date_of_its_end(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it took (RFC 9110 §6.6.1); what was answered when it began has an earlier one."""
    monkeypatch.setattr("prefork.http.h1.render.formatdate", lambda time, usegmt: f"{time:.3f}")
    monkeypatch.setattr("prefork.http.h1.render.time", lambda: here.loop.now)

    began = 0.0

    async def handle(request: Request) -> Response:
        nonlocal began
        began = here.loop.now
        while request.path == "/slow" and here.loop.now // 1 == began // 1:
            await here.loop.sleep(0.01)
        return Response(200)

    here = world(handle)
    peer = here.connect()
    for path in (b"/", b"/slow"):
        peer.send(GET.replace(b"/", path, 1))
        date = float(peer.answer().headers["date"])
    assert date // 1 > began // 1
