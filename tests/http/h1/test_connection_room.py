"""Room for new clients: idle connections give way, the one that has been idle the longest first; busy ones stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefork.http.message import Request, Response
from prefork.runtime.task import PAUSE
from tests.http.conftest import GET, Peer, World, echo
from tests.http.h1.oracle import answers

Make = Callable[..., World]

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def make_room(here: World, limit: int) -> list[int]:
    """A client comes to whom `limit` connections are one too many; the list gets how many are left when it enters."""
    entered: list[int] = []

    async def enter() -> None:
        here.server.limit = limit
        await here.server.room(wanted=False)
        await here.server.room(wanted=True)
        entered.append(len(here.server.connections))

    here.loop.spawn(enter(), "entering")
    return entered


def served(here: World) -> Peer:
    """A client that has had an answer, and idles."""
    peer = here.connect()
    peer.send(GET)
    peer.answer()
    here.until(lambda: peer.connection.idle, "an idle connection")
    return peer


def test_room_is_made_by_whoever_leaves(world: Make) -> None:
    async def handle(request: Request) -> Response:
        while not released:
            await PAUSE
        return Response(200)

    released: list[bool] = []
    here = world(handle)
    peers = [here.connect() for _ in range(3)]
    for peer in peers:
        peer.send(GET)
    here.until(lambda: all(peer.connection.request for peer in peers), "three busy connections")
    entered = make_room(here, 3)
    for _ in range(20):
        here.loop.turn()
    assert entered == [], "busy ones stay"
    released.append(True)
    here.until(lambda: entered, "room")
    assert entered == [2]


def test_nobody_gives_way_while_there_is_room(world: Make) -> None:
    here = world()
    peers = [served(here) for _ in range(3)]
    entered = make_room(here, 4)
    here.until(lambda: entered, "room")
    assert entered == [3]
    assert not any(peer.ended for peer in peers)


def test_the_connection_that_has_idled_the_longest_gives_way(world: Make) -> None:
    here = world()
    first, second, third = (served(here) for _ in range(3))
    first.send(GET)
    first.answer()
    entered = make_room(here, 3)
    assert second.rest() == b""
    here.until(lambda: entered, "room")
    for peer in (first, third):
        peer.send(GET)
        assert peer.answer().body == b"/"


def test_a_new_client_does_not_give_way_to_the_next(world: Make) -> None:
    """Its first request is on its way; header_timeout, which is short, says nothing of how long it has been idle."""
    here = world(header_timeout=10, keepalive_timeout=3600)
    idle = served(here)
    fresh = here.connect()
    here.until(lambda: fresh.task.deadline < here.loop.now + 100, "the connection's beginning")
    make_room(here, 2)
    assert idle.rest() == b""
    fresh.send(GET)
    assert fresh.answer().body == b"/"


def test_a_client_that_never_said_anything_gives_way(world: Make) -> None:
    here = world()
    silent = here.connect()
    here.loop.turn()
    second = here.connect()
    here.until(lambda: second.connection.task, "both connections' beginnings")
    make_room(here, 2)
    assert silent.rest() == b""
    second.send(GET)
    assert second.answer().body == b"/"


def test_a_client_whose_pipelined_requests_wait_does_not_give_way(world: Make) -> None:
    """Between two of them the connection lets others have their turn; it is not idle."""
    answered = 0

    async def handle(request: Request) -> Response:
        nonlocal answered
        answered += 1
        if answered == 2:
            make_room(here, 1)
        return Response(200)

    here = world(handle)
    peer = here.connect()
    peer.send(GET * 10)
    here.until(lambda: len(here.log) == 10, "ten answers")


@pytest.mark.parametrize("begun", [GET[:10], POST, POST + b"he"])
def test_a_client_that_begins_to_ask_just_then_is_answered(world: Make, begun: bytes) -> None:
    """What arrives before the connection is ended counts."""
    here = world(echo)
    peer = served(here)
    entered = make_room(here, 1)
    here.loop.turn()  # it is about to decide whom to let go
    peer.socket.send(begun)
    for _ in range(20):
        here.loop.turn()
    peer.socket.send((GET if begun == GET[:10] else POST + b"hello")[len(begun) :])
    peer.shutdown()
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [200]
    here.until(lambda: entered, "room")


def test_nobody_gives_way_before_a_client_is_there(world: Make) -> None:
    here = world()
    peer = served(here)
    ready: list[bool] = []

    async def look() -> None:
        here.server.limit = 1
        await here.server.room(wanted=False)
        ready.append(True)

    here.loop.spawn(look(), "looking")
    here.until(lambda: ready, "the prospect of room")
    peer.send(GET)
    assert peer.answer().body == b"/"


def test_where_all_are_busy_there_is_no_prospect_of_room(world: Make) -> None:
    here = world()
    busy = here.connect()
    busy.send(GET[:10])
    here.until(lambda: busy.connection.stream.unread, "the beginning of a head")
    entered = make_room(here, 1)
    for _ in range(20):
        here.loop.turn()
    assert entered == []
    busy.send(GET[10:])
    assert busy.answer().body == b"/"
    here.until(lambda: entered, "room")


def test_an_idle_connection_that_is_busy_again_when_it_matters_stays(world: Make) -> None:
    here = world()
    peer = served(here)
    peer.send(GET[:10])
    here.until(lambda: peer.connection.stream.unread, "the beginning of a head")
    entered: list[bool] = []

    async def enter() -> None:
        here.server.limit = 1
        await here.server.room(wanted=True)
        entered.append(True)

    here.loop.spawn(enter(), "entering")
    for _ in range(20):
        here.loop.turn()
    assert entered == []
    peer.send(GET[10:])
    assert peer.answer().body == b"/"
    here.until(lambda: entered, "room")


def test_for_want_of_descriptors_an_idle_connection_gives_way_though_there_is_room(world: Make) -> None:
    here = world(echo)
    first, second = served(here), served(here)
    second.send(POST)  # busy
    relieved: list[bool] = []

    async def relieve() -> None:
        relieved.extend([await here.server.relieve(), await here.server.relieve()])

    here.loop.spawn(relieve(), "relieving")
    first.rest()
    here.until(lambda: len(relieved) == 2, "an end of that")
    assert relieved == [True, False]
    second.send(b"12345")
    assert second.answer().body == b"12345"


def test_of_many_idle_connections_an_eighth_gives_way(world: Make) -> None:
    """So that not every new client costs a look at all of them."""
    here = world()
    peers = [here.connect() for _ in range(40)]
    here.until(lambda: all(peer.connection.idle for peer in peers), "forty idle connections")
    entered = make_room(here, 40)
    here.until(lambda: entered, "room")
    assert entered == [35]


def test_a_connection_that_becomes_idle_gives_way_to_who_waits_already(world: Make) -> None:
    """Not keepalive_timeout seconds later."""

    async def handle(request: Request) -> Response:
        while not released:
            await PAUSE
        return Response(200)

    released: list[bool] = []
    here = world(handle, keepalive_timeout=3600)
    peer = here.connect()
    peer.send(GET)
    here.until(lambda: peer.connection.request, "a busy connection")
    entered = make_room(here, 1)
    for _ in range(20):
        here.loop.turn()
    assert entered == []
    released.append(True)
    here.until(lambda: entered, "room")
    assert peer.answer().status == 200
    assert peer.rest() == b""


def test_a_client_whose_request_has_arrived_does_not_give_way(world: Make) -> None:
    here = world()
    first, second = served(here), served(here)

    async def ask() -> None:
        await PAUSE
        first.socket.sendall(GET)  # in the turn in which somebody has to give way: the loop has not seen it yet

    async def relieve() -> None:
        assert await here.server.relieve()

    here.loop.spawn(ask(), "asking")
    here.loop.spawn(relieve(), "relieving")
    assert first.answer().status == 200
    assert second.rest() == b""
