"""Every poller keeps the same promises: what poller.py says at its top, and what the loop relies on."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import pytest

from prefork.runtime.poller import (
    ERROR,
    EXCLUSIVE,
    POLLERS,
    READ,
    WRITE,
    EpollPoller,
    Poller,
    SelectPoller,
    make_poller,
)
from tests.runtime.conftest import EVERY, SLACK, Pair, Pairs, fill


def reset(sock: socket.socket) -> None:
    """Close with a RST: SO_LINGER of no seconds (socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_nothing_is_reported_of_an_idle_socket(poller: Poller, pair: Pairs) -> None:
    left, _ = pair()
    poller.watch(left.fileno(), READ)
    assert poller.poll(0) == []


def test_nothing_watched_is_nothing_ready(poller: Poller) -> None:
    assert poller.poll(0) == []


def test_readable_is_reported(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ)
    right.send(b"x")
    assert poller.poll(1) == [(left.fileno(), READ)]


def test_writable_is_reported(poller: Poller, pair: Pairs) -> None:
    left, _ = pair()
    poller.watch(left.fileno(), WRITE)
    assert poller.poll(1) == [(left.fileno(), WRITE)]


def test_a_full_socket_is_not_writable_until_its_peer_reads(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    fill(left)
    poller.watch(left.fileno(), WRITE)
    assert poller.poll(0) == []
    try:
        while right.recv(65536):
            pass
    except BlockingIOError:
        pass
    assert poller.poll(1) == [(left.fileno(), WRITE)]


def test_both_directions_come_as_one_event(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ | WRITE)
    right.send(b"x")
    assert poller.poll(1) == [(left.fileno(), READ | WRITE)]


def test_readiness_is_reported_until_it_is_dealt_with(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ)
    right.send(b"xy")
    for _ in range(3):
        assert poller.poll(1) == [(left.fileno(), READ)]
    left.recv(1)
    assert poller.poll(1) == [(left.fileno(), READ)]
    left.recv(1)
    assert poller.poll(0) == []


@pytest.mark.parametrize(("first", "then"), [(READ, WRITE), (READ | WRITE, WRITE), (WRITE, READ | WRITE)])
def test_watch_replaces_what_was_watched(poller: Poller, pair: Pairs, first: int, then: int) -> None:
    left, right = pair()
    right.send(b"x")
    poller.watch(left.fileno(), first)
    poller.watch(left.fileno(), then)
    assert poller.poll(1) == [(left.fileno(), then)]


def test_watching_the_same_twice_changes_nothing(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ)
    poller.watch(left.fileno(), READ)
    right.send(b"x")
    assert poller.poll(1) == [(left.fileno(), READ)]
    poller.forget(left.fileno())
    assert poller.poll(0) == []


def test_a_forgotten_descriptor_is_silent(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ | WRITE)
    right.send(b"x")
    poller.forget(left.fileno())
    assert poller.poll(0) == []


def test_a_forgotten_descriptor_can_be_watched_again(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ | WRITE)
    poller.forget(left.fileno())
    poller.watch(left.fileno(), READ)
    right.send(b"x")
    assert poller.poll(1) == [(left.fileno(), READ)]


def test_forgetting_an_unknown_descriptor_is_fine(poller: Poller, pair: Pairs) -> None:
    left, _ = pair()
    poller.forget(left.fileno())
    poller.watch(left.fileno(), READ)
    poller.forget(left.fileno())
    poller.forget(left.fileno())
    poller.forget(987654)


def test_a_reused_number_starts_afresh(poller: Poller, pair: Pairs) -> None:
    left, _ = pair()
    number = left.fileno()
    poller.watch(number, WRITE)
    poller.forget(number)
    left.close()
    again, peer = pair()
    assert number in (again.fileno(), peer.fileno())
    assert poller.poll(0) == []
    poller.watch(number, WRITE)
    assert poller.poll(1) == [(number, WRITE)]


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_a_hang_up_is_reported_whatever_is_watched(poller: Poller, pair: Pairs, events: int) -> None:
    left, right = pair()
    fill(left)
    poller.watch(left.fileno(), events)
    assert poller.poll(0) == []
    right.close()
    [(fd, reported)] = poller.poll(1)
    assert fd == left.fileno()
    assert reported & events or reported & ERROR


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_a_reset_is_reported_whatever_is_watched(poller: Poller, tcp_pair: Pair, events: int) -> None:
    client, server = tcp_pair
    fill(server)
    poller.watch(server.fileno(), events)
    reset(client)
    [(fd, reported)] = poller.poll(1)
    assert fd == server.fileno()
    assert reported & events or reported & ERROR


def test_the_end_of_a_stream_is_readable(poller: Poller, tcp_pair: Pair) -> None:
    client, server = tcp_pair
    poller.watch(server.fileno(), READ)
    client.shutdown(socket.SHUT_WR)
    [(fd, reported)] = poller.poll(1)
    assert (fd, reported & READ) == (server.fileno(), READ)
    assert server.recv(1) == b""


def test_a_writer_hears_of_a_pipe_that_nobody_reads(poller: Poller) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65536)
    poller.watch(writer, WRITE)
    assert poller.poll(0) == []
    os.close(reader)
    [(fd, reported)] = poller.poll(1)
    assert fd == writer
    assert reported & (WRITE | ERROR)
    poller.forget(writer)
    os.close(writer)


def test_a_connection_makes_a_listener_readable(poller: Poller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        poller.watch(listener.fileno(), READ | EXCLUSIVE)
        assert poller.poll(0) == []
        with socket.create_connection(listener.getsockname()):
            assert poller.poll(1) == [(listener.fileno(), READ)]


@pytest.mark.parametrize(
    "way",
    [
        (READ | EXCLUSIVE, READ | EXCLUSIVE),
        (READ, READ | EXCLUSIVE),
        (READ | EXCLUSIVE, READ),
        (READ | EXCLUSIVE, READ | WRITE),
        (READ | EXCLUSIVE, 0, READ | EXCLUSIVE),
    ],
)
def test_an_exclusive_listener_can_be_watched_anew(poller: Poller, way: tuple[int, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for events in way:
            if events:
                poller.watch(listener.fileno(), events)
            else:
                poller.forget(listener.fileno())
        assert poller.poll(0) == []
        with socket.create_connection(listener.getsockname()):
            assert poller.poll(1) == [(listener.fileno(), READ)]
        poller.forget(listener.fileno())
        assert poller.poll(0) == []


@pytest.mark.skipif(not hasattr(select, "EPOLLEXCLUSIVE"), reason="epoll(7) alone has EPOLLEXCLUSIVE")
def test_epoll_is_told_that_a_listener_is_exclusive() -> None:
    poller = EpollPoller()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        poller.watch(listener.fileno(), READ | EXCLUSIVE)
        with open(f"/proc/self/fdinfo/{poller._epoll.fileno()}") as info:  # proc(5): "tfd: 5 events: 10000019 ..."
            [entry] = [line.split() for line in info if line.startswith("tfd:")]
        assert int(entry[1]) == listener.fileno()
        assert int(entry[3], 16) & select.EPOLLEXCLUSIVE
    poller.close()


@pytest.mark.parametrize("seconds", [0.0004, 0.03, 0.2])
def test_a_timeout_is_in_seconds_and_not_cut_short(poller: Poller, pair: Pairs, seconds: float) -> None:
    left, _ = pair()
    poller.watch(left.fileno(), READ)
    start = monotonic()
    assert poller.poll(seconds) == []
    assert seconds <= monotonic() - start < seconds + SLACK


def test_no_timeout_waits_until_something_happens(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    poller.watch(left.fileno(), READ)
    start = monotonic()
    timer = threading.Timer(0.1, right.send, [b"x"])
    timer.start()
    assert poller.poll(None) == [(left.fileno(), READ)]
    assert monotonic() - start >= 0.1
    timer.join()


def test_a_descriptor_that_is_not_open_is_refused_or_reported(poller: Poller, pair: Pairs) -> None:
    left, right = pair()
    right.send(b"x")
    poller.watch(left.fileno(), READ)
    closed = os.dup(left.fileno())
    os.close(closed)
    try:
        poller.watch(closed, READ)
    except OSError:
        assert poller.poll(1) == [(left.fileno(), READ)]
    else:
        assert dict(poller.poll(1)).keys() == {left.fileno(), closed}


def test_a_closed_sockets_number_is_refused(poller: Poller) -> None:
    with pytest.raises((OSError, ValueError)):
        poller.watch(-1, READ)  # what fileno() says of a closed socket
    poller.forget(-1)
    assert poller.poll(0) == []


def test_hundreds_of_ready_descriptors_are_all_reported(poller: Poller, pair: Pairs) -> None:
    wanted = {fd for _ in range(150) for one in pair() for fd in [one.fileno()]}
    for fd in wanted:
        poller.watch(fd, READ | WRITE)
    assert dict(poller.poll(1)) == dict.fromkeys(wanted, WRITE)


def test_closing_leaves_no_descriptor_behind(new_poller: Callable[[], Poller], pair: Pairs) -> None:
    left, _ = pair()
    before = os.listdir("/dev/fd")
    poller = new_poller()
    poller.watch(left.fileno(), READ)
    poller.close()
    assert os.listdir("/dev/fd") == before


def test_a_poller_without_a_limit_watches_any_number(new_poller: Callable[[], Poller], high_descriptor: int) -> None:
    poller = new_poller()
    if poller.limit is None:
        poller.watch(high_descriptor, READ)
        assert poller.poll(1) == [(high_descriptor, READ)]
    else:
        assert high_descriptor >= poller.limit
        with pytest.raises(OSError, match=f"descriptor {high_descriptor}"):
            poller.watch(high_descriptor, READ)


def test_select_refuses_a_descriptor_beyond_its_limit_and_says_the_way_out(high_descriptor: int) -> None:
    poller = SelectPoller()
    with pytest.raises(OSError, match="select cannot watch descriptor 1024: its limit is 1023; use poll or epoll"):
        poller.watch(high_descriptor, READ)
    assert poller.poll(0) == []


def test_select_watches_the_last_descriptor_below_its_limit(high_descriptor: int) -> None:
    poller = SelectPoller()
    last = os.dup2(high_descriptor, 1023)
    poller.watch(last, READ)
    assert poller.poll(1) == [(last, READ)]
    os.close(last)


@pytest.mark.parametrize("name", POLLERS)
def test_a_poller_is_made_by_its_name(name: str) -> None:
    poller = make_poller(name)
    assert type(poller) is EVERY[name]
    poller.close()


def test_auto_is_the_best_that_the_platform_has() -> None:
    poller = make_poller()
    assert type(poller) is EVERY["epoll" if hasattr(select, "epoll") else "kqueue"]
    poller.close()


def test_an_unknown_poller_is_refused_by_name() -> None:
    with pytest.raises(LookupError, match=r"has no uring; it has .*select"):
        make_poller("uring")
