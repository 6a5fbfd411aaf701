"""Calls that block: the others go on, who takes too long is told of and replaced, and nobody else notices."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from prefork.handlers.apps.wsgi.call import HALF_CLOSED
from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Answer, Server

APP = r'''
import os, sqlite3, threading, time
from urllib.parse import parse_qs

inside, most, lock = 0, 0, threading.Lock()
local = threading.local()

def hold(name):
    """Until the file `name` is there."""
    with open(name + ".in", "a"):
        pass
    while not os.path.exists(name):
        time.sleep(0.005)

def stuck_in_the_application(name):
    hold(name)

def pieces(name):
    here = threading.get_ident()
    local.who = name
    base = sqlite3.connect(":memory:")  # refuses any other thread
    try:
        for number in range(3):
            yield b"%d %s %d\n" % (base.execute("select ?", [number]).fetchone()[0], local.who.encode(),
                                   here == threading.get_ident())
            hold(f"{name}{number}")
    finally:
        base.execute("select 1")
        base.close()
        with open(name + ".closing", "w") as file:
            file.write(str(here == threading.get_ident()))
        os.rename(name + ".closing", name + ".closed")

def app(environ, start_response):
    global inside, most
    path, name = environ["PATH_INFO"], environ["QUERY_STRING"]
    with lock:
        inside += 1
        most = max(most, inside)
    try:
        if path.endswith("/hold"):
            stuck_in_the_application(name)
    finally:
        with lock:
            inside -= 1
    start_response("200 OK", [])
    if path == "/pieces":
        return pieces(name)
    main = threading.current_thread() is threading.main_thread()
    return [f"{os.getpid()} {most} {main}".encode()]
'''
CONFIG = """
[workers]
count = 1
threads = {threads}
{more}
[[route]]
path = "/"
wsgi = "app:app"
[[route]]
path = "/patient"
wsgi = "app:app"
timeout = 0
[[route]]
path = "/status"
status = true
"""


class Site:
    """A server with the application; what it holds is let go by `release`."""

    def __init__(self, serve: Serve, threads: int = 3, more: str = "") -> None:
        self.server: Server = serve(CONFIG.format(threads=threads, more=more), {"app.py": APP})
        self.pool = ThreadPoolExecutor(32)

    def ask(self, path: str) -> Callable[[], Answer]:
        return self.pool.submit(self.server.get, path, timeout=20.0).result

    def hold(self, name: str, path: str = "/hold") -> Callable[[], Answer]:
        """A request that the application has by now."""
        answer = self.ask(f"{path}?{name}")
        self.entered(name)
        return answer

    def entered(self, name: str) -> None:
        eventually((self.server.directory / f"{name}.in").exists, 10)

    def release(self, *names: str) -> None:
        for name in names:
            (self.server.directory / name).touch()

    def pid(self) -> int:
        return int(self.server.get("/").body.split()[0])

    def status(self) -> dict[str, int]:
        totals = json.loads(self.server.get("/status").body)["totals"]
        assert isinstance(totals, dict)
        return totals


def test_slow_calls_go_on_at_once_and_fast_ones_meanwhile(serve: Serve) -> None:
    site = Site(serve, threads=4)
    slow = [site.hold(name) for name in "abc"]
    for _ in range(20):
        assert site.server.get("/").status == 200
    counted = site.status()
    assert counted["takeovers"] + counted["handed_over"] >= 3
    site.release(*"abc")
    assert [answer().status for answer in slow] == [200] * 3


def test_one_thread_means_one_call_at_a_time_and_the_loop_lives(serve: Serve) -> None:
    site = Site(serve, threads=1)
    slow = site.hold("a")
    waiting = [site.ask("/") for _ in range(5)]
    eventually(lambda: site.status()["queued"] == 5)
    site.release("a")
    assert slow().body.split()[1] == b"1"
    assert {answer().body.split()[1] for answer in waiting} == {b"1"}


ALARM = r"""
import signal, threading, time

class TooLong(Exception):
    pass

def too_long(number, frame):
    raise TooLong

def app(environ, start_response):
    seconds = float(environ["QUERY_STRING"] or 0)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        time.sleep(seconds)
        body = b"in time"
    except TooLong:
        body = b"too long"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    start_response("200 OK", [])
    return iter([body, b", ", str(threading.current_thread() is threading.main_thread()).encode()])
"""


@pytest.mark.parametrize("preload", ["false", "true"])
def test_one_thread_is_the_main_one_where_alarms_and_signal_handlers_work(serve: Serve, preload: str) -> None:
    config = CONFIG.format(threads=1, more=f"preload = {preload}")
    server = serve(config, {"app.py": ALARM})
    for _ in range(3):
        assert server.get("/?0").body == b"in time, True"
        assert server.get("/?0.03").body == b"in time, True"
        assert server.get("/?5").body == b"too long, True"
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(server.get, f"/?{seconds}") for seconds in (0.02, 5, 0, 0.02, 0, 5)]
        assert server.get("/status").status == 200
        assert {call.result().body for call in calls} == {b"in time, True", b"too long, True"}


def test_who_waits_too_long_for_a_thread_is_told_to_come_again(serve: Serve) -> None:
    site = Site(serve, threads=1, more="queue_timeout = 0.2")
    slow = site.hold("a")
    answer = site.server.get("/")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    site.server.wait_log(r"warning: 1 of 1 threads busy, 1 call turned away with 503 after .*: GET /hold\?a$")
    site.release("a")
    assert slow().status == 200
    assert site.server.get("/").status == 200


def test_who_leaves_while_waiting_for_a_thread_is_not_worked_for(serve: Serve) -> None:
    site = Site(serve, threads=1)
    slow = site.hold("a")
    waiting = [site.server.connect() for _ in range(5)]
    for number, client in enumerate(waiting):
        client.sendall(b"GET /hold?gone%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
    staying = site.ask("/hold?stays")
    eventually(lambda: site.status()["queued"] == 6)
    for client in waiting:
        client.close()
    time.sleep(HALF_CLOSED)  # a moment in which they might still read
    site.release("a", "stays", *(f"gone{number}" for number in range(5)))
    assert [slow().status, staying().status] == [200, 200]
    assert not list(site.server.directory.glob("gone*.in"))


@pytest.mark.parametrize("threads", [3, 8])
def test_a_stuck_call_is_answered_504_and_its_worker_replaced_while_others_finish(serve: Serve, threads: int) -> None:
    site = Site(serve, threads, more="timeout = 0.5")
    old = site.pid()
    stuck = site.hold("stuck")  # in the main thread, which leads first
    other = site.hold("other", "/patient/hold")
    answer = stuck()
    assert answer.status == 504
    assert answer.headers["Connection"] == "close"
    site.server.wait_log(r"GET /hold\?stuck has taken more than 0\.5 s, and is at")
    site.server.wait_log(r'app\.py", line \d+, in stuck_in_the_application')
    eventually(lambda: site.pid() != old, 10)
    site.release("other")
    assert other().status == 200
    assert int(other().body.split()[0]) == old
    eventually(lambda: [worker.pid for worker in site.server.workers()] == [site.pid()], 10)
    assert site.server.stderr.count("asks to be replaced") == 1
    assert not re.search(r"\berror\b.*died", site.server.stderr)


def test_a_worker_all_of_whose_threads_are_stuck_is_replaced(serve: Serve) -> None:
    site = Site(serve, threads=2, more="timeout = 0.5\ngraceful_timeout = 5")
    old = site.pid()
    stuck = [site.hold("a"), site.hold("b")]
    waiting = site.ask("/")
    assert [answer().status for answer in stuck] == [504, 504]
    eventually(lambda: old not in [worker.pid for worker in site.server.workers()], 15)
    assert waiting().status == 503  # its call was never begun
    assert site.pid() != old


def test_no_timeout_is_no_timeout_for_a_route_too(serve: Serve) -> None:
    site = Site(serve, threads=2, more="timeout = 0.2")
    patient = site.hold("patient", "/patient/hold")
    stuck = site.hold("stuck")
    assert stuck().status == 504
    site.release("patient")
    assert patient().status == 200


def read_line(response: object) -> bytes:
    return response.readline()  # type: ignore[attr-defined, no-any-return]


def test_slow_pieces_arrive_one_by_one_and_all_come_from_one_thread(serve: Serve) -> None:
    site = Site(serve, threads=2)
    connection = HTTPConnection("127.0.0.1", site.server.port, timeout=10)
    connection.request("GET", "/pieces?p")
    response = connection.getresponse()
    for number in range(3):
        assert read_line(response) == b"%d p 1\n" % number
        assert site.server.get("/").status == 200
        site.release(f"p{number}")
    assert response.read() == b""
    connection.close()
    closed = site.server.directory / "p.closed"
    assert eventually(lambda: closed.exists() and closed.read_text()) == "True"


def test_a_stream_whose_client_hangs_up_is_closed_in_its_own_thread(serve: Serve) -> None:
    site = Site(serve, threads=2)
    with site.server.connect() as client:
        client.sendall(b"GET /pieces?q HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"0 q 1" in receive(client, b"0 q 1")
    closed = site.server.directory / "q.closed"
    site.release("q0", "q1", "q2")
    assert eventually(lambda: closed.exists() and closed.read_text()) == "True"
    assert site.server.get("/").status == 200


def receive(client: socket.socket, until: bytes) -> bytes:
    data = b""
    while until not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


def test_a_stream_of_which_nothing_more_comes_is_cut_and_its_worker_replaced(serve: Serve) -> None:
    site = Site(serve, threads=2, more="timeout = 0.5")
    old = site.pid()
    data = site.server.raw(b"GET /pieces?r HTTP/1.1\r\nHost: a\r\n\r\n")
    assert data.count(b"HTTP/1.1") == 1
    assert b"0 r 1" in data
    assert not data.endswith(b"0\r\n\r\n")
    site.server.wait_log(r'app\.py", line \d+, in pieces')
    eventually(lambda: site.pid() != old, 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_calls_under_way_in_several_threads_finish_before_a_worker_leaves(serve: Serve, number: signal.Signals) -> None:
    site = Site(serve, threads=4)
    old = site.pid()
    slow = [site.hold(name) for name in "abc"]
    site.server.signal(number)
    if number is signal.SIGHUP:
        eventually(lambda: site.pid() != old, 10)
    else:
        eventually(lambda: not accepts(site.server))
    site.release(*"abc")
    answers = [answer() for answer in slow]
    assert [answer.status for answer in answers] == [200] * 3
    assert {int(answer.body.split()[0]) for answer in answers} == {old}
    if number is signal.SIGTERM:
        assert site.server.wait_exit() == 0


def accepts(server: Server) -> bool:
    try:
        server.connect(1).close()
    except OSError:
        return False
    return True


def test_requests_whose_calls_were_not_begun_are_told_so_when_the_time_to_leave_is_over(serve: Serve) -> None:
    site = Site(serve, threads=1, more="graceful_timeout = 0.5")
    held = site.hold("a")
    waiting = [site.ask("/") for _ in range(3)]
    eventually(lambda: site.status()["queued"] == 3)
    site.server.signal(signal.SIGTERM)
    answers = [answer() for answer in waiting]
    assert [(answer.status, answer.headers.get("retry-after")) for answer in answers] == [(503, "1")] * 3
    with pytest.raises((ConnectionError, HTTPException)):
        held()
    assert site.server.wait_exit() == 0
    assert "turned away" not in site.server.stderr


def test_logs_are_reopened_while_the_main_thread_is_in_a_call(serve: Serve) -> None:
    site = Site(serve, threads=1, more='[log]\naccess = "access.log"')
    slow = site.hold("a")
    path = Path(site.server.directory / "access.log")
    path.rename(path.with_suffix(".old"))
    site.server.signal(signal.SIGUSR1)
    eventually(lambda: site.server.get("/status").status == 200 and path.exists() and path.stat().st_size)
    site.release("a")
    assert slow().body.split()[2] == b"True"


def test_development_mode_finds_nothing_to_complain_of(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    site = Site(serve, threads=3, more="timeout = 0.5")
    until = time.monotonic() + 1.5

    def load() -> None:
        while time.monotonic() < until:
            assert site.server.get("/").status == 200

    for number in range(3):
        site.release(f"s{number}")
    loads = [site.pool.submit(load) for _ in range(4)]
    for number in range(20):
        site.release(f"h{number}")
        assert site.hold(f"h{number}")().status == 200
        assert site.server.get("/pieces?s").body.count(b" s 1\n") == 3
    for each in loads:
        each.result()
    assert "the loop is touched" not in site.server.stderr
    assert "Error" not in site.server.stderr
    # CPython counts threads by the 20th word of /proc/self/stat: that is our niceness, as our title is two words
    false_alarm = r".*DeprecationWarning: This process \(pid=\d+\) is multi-threaded.*" if os.nice(0) > 1 else r"(?!)"
    assert "Warning" not in re.sub(false_alarm, "", site.server.stderr)
