"""WSGI calls that wait run beside each other; those that do not are made in the thread of the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from prefork.handlers.apps.wsgi.call import Bounds
from prefork.handlers.apps.wsgi.wait_estimate import AllWait, Estimates
from prefork.runtime.threads import DELEGATED, QUEUED, TAKEOVERS
from tests.handlers.apps.live import Live, live, receive, rest
from tests.handlers.exchange import parse

Environ = dict[str, Any]
Start = Callable[..., Any]
SECONDS = 0.01  # that a call waits


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Waits for what its path says, and tells its thread."""
    kind = environ["PATH_INFO"].split("/")[1]
    if kind == "waits":
        time.sleep(SECONDS)
    start_response("500 Failed" if kind == "fails" else "200 OK", [])
    if kind == "fails":
        time.sleep(SECONDS)
        raise ValueError("the cause")
    if kind == "streams":
        return pieces()
    return [str(threading.get_ident()).encode()]


def pieces() -> Iterable[bytes]:
    for _ in range(3):
        time.sleep(SECONDS / 2)
        yield str(threading.get_ident()).encode()


def ask(here: Live, path: str) -> bytes:
    return parse(rest(here.connect(b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode()))).body


def counts(here: Live) -> tuple[int, int]:
    return here.pool.inline, here.pool.counts[DELEGATED]


@pytest.mark.parametrize("kind", ["waits", "fails", "streams"])
def test_calls_that_wait_are_handed_over_once_they_are_known_and_fast_ones_are_not(kind: str) -> None:
    with live(application, threads=4) as here:
        for number in range(4):
            ask(here, f"{kind}/{number}")
        known = counts(here)
        for number in range(10):
            ask(here, f"{kind}/{number}")
        assert counts(here) == (known[0], known[1] + 10)
        threads: list[bytes] = []  # of the latest calls in a row that were made inline
        for _ in range(1000):  # it is new, and taken for one that waits, as the others did
            inline = counts(here)[0]
            thread = ask(here, "fast")
            threads = [*threads, thread] if counts(here)[0] > inline else []
            if len(threads) == 10:
                break
        assert len(threads) == 10
        assert len(set(threads)) == 1


def test_who_makes_one_call_at_a_time_counts_those_known_to_wait_as_handed_over() -> None:
    with live(application, threads=1, estimates=AllWait()) as here:
        for _ in range(5):
            ask(here, "fast")
        here.until(lambda: counts(here) == (0, 5))
        assert not here.pool.counts[TAKEOVERS]  # nothing has come unexpectedly


def test_as_many_wait_at_once_as_there_are_threads() -> None:
    with live(application, threads=4) as here:
        for _ in range(4):
            ask(here, "waits")
        asked = b"GET /waits HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        began = time.monotonic()
        clients = [here.connect(asked) for _ in range(40)]
        threads = {parse(rest(client)).body for client in clients}
        took = time.monotonic() - began
        assert len(threads) >= 4
        assert took < 40 * SECONDS * 0.75  # one after the other, it would be all of that and more


def test_of_many_that_wait_at_once_one_is_tried_inline() -> None:
    """So a new kind, or a trial, holds up the loop by one call, not by as many as come until that one is over."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def waits(environ: Environ, start_response: Start) -> list[bytes]:
        begun.release()
        assert go_on.wait(10)
        start_response("200 OK", [])
        return [b"done"]

    with live(waits, threads=16) as here:
        clients = [here.connect(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") for _ in range(16)]
        for _ in clients:
            assert begun.acquire(timeout=10)
        assert counts(here) == (1, 15)
        go_on.set()
        assert {parse(rest(client)).body for client in clients} == {b"done"}


def test_who_makes_one_call_at_a_time_makes_it_itself_and_others_go_on_meanwhile() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waits(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/held":
            begun.set()
            assert go_on.wait(10)
        else:
            time.sleep(SECONDS)
        return [str(threading.get_ident()).encode()]

    with live(waits, threads=1) as here:
        threads = {ask(here, "waits") for _ in range(5)}
        held = here.connect(b"GET /held HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert begun.wait(10)
        others = [here.connect(b"GET /waits HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") for _ in range(3)]
        here.until(lambda: len(here.pool.jobs) == 3)  # the loop turns
        go_on.set()
        threads |= {parse(rest(client)).body for client in (held, *others)}
        assert len(threads) == 1
        assert here.pool.counts[QUEUED] >= 3


def test_a_thread_makes_the_next_call_without_the_loop() -> None:
    """Which is held up meanwhile by a call that computes, say: what waits for a thread does not wait for that, too."""
    order: list[str] = []
    second = threading.Event()

    def follow(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        order.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/1":
            here.until(lambda: len(here.pool.jobs) == 1)
            here.pool.call_soon(lambda: order.append(f"held until {second.wait(10)}"))
        else:
            second.set()
        return [b""]

    with live(follow, threads=1, pinned=True) as here:
        clients = [here.connect(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number) for number in (1, 2)]
        for client in clients:
            receive(client, b"\r\n\r\n")
            client.close()
    assert order == ["/1", "/2", "held until True"]


def test_calls_that_are_not_made_as_their_clients_have_left_tell_nothing_of_their_kind() -> None:
    first, second = threading.Event(), threading.Event()

    def waits(environ: Environ, start_response: Start) -> list[bytes]:
        held = {"first": first, "second": second}.get(environ["QUERY_STRING"])
        if held is not None:
            assert held.wait(10)
        return list(application(environ, start_response))

    few = Estimates(mean_calls=4)  # or it would take hundreds of them
    with live(waits, threads=2, estimates=few, bounds=Bounds(half_closed=0.0)) as here:
        for _ in range(4):
            ask(here, "waits")
        asked = b"GET /waits?%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        held = [here.connect(asked % name) for name in (b"first", b"second")]
        here.until(lambda: len(here.pool.calls.under_way) == 2)
        for _ in range(40):
            here.connect(asked % b"").close()
        here.until(lambda: len(here.pool.jobs) == 40)
        first.set()
        rest(held[0])
        here.until(lambda: len(here.pool.followers) == 1)
        before = counts(here)
        ask(here, "waits")
        assert counts(here) == (before[0], before[1] + 1)
        second.set()
        rest(held[1])
