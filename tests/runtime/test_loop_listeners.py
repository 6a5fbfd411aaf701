"""Listeners that processes share: watched exclusively, and only while somebody wants to accept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from prefork.runtime.loop import Loop
from prefork.runtime.poller import EXCLUSIVE, READ, Poller
from prefork.runtime.task import PAUSE
from tests.runtime.conftest import Crashes, Noted, Pairs


def test_a_listener_is_watched_exclusively_and_stays_registered(loop: Loop, poller: Noted) -> None:
    clients: list[socket.socket] = []

    async def accept(listener: socket.socket) -> None:
        ready = loop.readable(listener.fileno(), exclusive=True)
        for _ in range(4):
            await ready
            listener.accept()[0].close()

    async def connect(address: tuple[str, int]) -> None:
        for _ in range(4):
            clients.append(socket.create_connection(address))
            await PAUSE

    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop.spawn(accept(listener), "listener")
        loop.spawn(connect(listener.getsockname()), "clients")
        loop.run()
        assert poller.watched == [(listener.fileno(), READ | EXCLUSIVE)]
    for client in clients:
        client.close()


def test_who_stops_waiting_for_a_listener_leaves_the_clients_to_others(
    new_poller: Callable[[], Poller], crashes: Crashes
) -> None:
    # EPOLLEXCLUSIVE wakes one of those that are registered, and nobody else if that one does not want to accept
    full, free = Loop(new_poller()), Loop(new_poller())
    accepted: list[str] = []

    async def accept(loop: Loop, name: str, listener: socket.socket) -> None:
        with loop.within(5):
            await loop.readable(listener.fileno(), exclusive=True)
        listener.accept()[0].close()
        accepted.append(name)
        await loop.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        full.spawn(accept(full, "full", listener), "full")
        full.turn()
        with socket.create_connection(listener.getsockname()):
            full.turn()
        free.spawn(accept(free, "free", listener), "free")
        free.turn()
        threads = [threading.Thread(target=loop.run) for loop in (full, free)]
        for thread in threads:
            thread.start()
        threads[1].join(0.1)  # both sleep in their pollers by then, most likely
        with socket.create_connection(listener.getsockname()):
            for thread in threads:
                thread.join()
    assert accepted == ["full", "free"]
    full.close()
    free.close()
    assert crashes == []


def test_a_listener_that_was_left_is_waited_for_again(loop: Loop, poller: Noted) -> None:
    async def accept(listener: socket.socket) -> None:
        ready = loop.readable(listener.fileno(), exclusive=True)
        for _ in range(3):
            await ready
            listener.accept()[0].close()
            await loop.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(3)]
        loop.spawn(accept(listener), "listener")
        loop.run()
        assert len(poller.timeouts) < 20
    for client in clients:
        client.close()


def test_leaving_a_listener_spares_who_has_its_number_now(loop: Loop, pair: Pairs) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.fileno()
    seen: list[str] = []

    async def accept() -> None:
        try:
            await loop.readable(number, exclusive=True)
        except ConnectionError:
            seen.append("left")

    async def read(sock: socket.socket) -> None:
        await loop.readable(sock.fileno())
        seen.append("read")

    accepting = loop.spawn(accept(), "listener")
    loop.turn()
    loop.forget(number)
    listener.close()
    fresh, peer = sorted(pair(), key=lambda one: one.fileno() != number)
    assert fresh.fileno() == number
    loop.spawn(read(fresh), "reader")
    loop.turn()
    accepting.throw(ConnectionError())
    loop.turn()
    peer.send(b"x")
    loop.run()
    assert seen == ["left", "read"]
