"""A site whose calls wait for PostgreSQL: many wait at once, fast calls go on, and the site outlives the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bench.postgresql import PostgreSQL, postgresql, programs
from tests.conftest import eventually, needs
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

psycopg = pytest.importorskip("psycopg")

THREADS = 8
APP = """
import os, threading
import psycopg

STATEMENTS = {
    "/one": "select 1",
    "/sleep": "select 'slept' from pg_sleep(0.2)",
    "/long": "select 'slept' from pg_sleep(100)",
    "/lock": "select 'locked' from pg_advisory_xact_lock_shared(1)",
}
local = threading.local()

def query(statement):
    connection = getattr(local, "connection", None)
    if connection is None or connection.closed:
        connection = local.connection = psycopg.connect(autocommit=True)
    return connection.execute(statement).fetchone()[0]

def app(environ, start_response):
    statement = STATEMENTS.get(environ["PATH_INFO"])
    body = os.getpid() if statement is None else query(statement)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(body).encode()]
"""
CONFIG = f"""
[workers]
count = 1
threads = {THREADS}
[[route]]
path = "/"
wsgi = "app:app"
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    if programs() is None:
        needs("postgres")
    with postgresql() as server:
        yield server


@pytest.fixture
def server(serve: Serve, database: PostgreSQL) -> Server:
    return serve(CONFIG, {"app.py": APP}, env=database.environment)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """As many clients as the server has threads."""
    with ThreadPoolExecutor(THREADS) as clients:
        yield clients


def waiting(database: PostgreSQL, event: str) -> int:
    """How many sessions of the database wait for this event (see pg_stat_activity)."""
    return int(database.execute(f"select count(*) from pg_stat_activity where wait_event = '{event}'"))


def test_as_many_calls_as_there_are_threads_wait_for_the_database_at_once(
    database: PostgreSQL, server: Server, pool: ThreadPoolExecutor
) -> None:
    address = database.environment
    with psycopg.connect(host=address["PGHOST"], user=address["PGUSER"], dbname=address["PGDATABASE"]) as holder:
        holder.execute("select pg_advisory_xact_lock(1)")  # until the end of this block
        calls = [pool.submit(server.get, "/lock") for _ in range(THREADS)]
        eventually(lambda: waiting(database, "advisory") == THREADS, 10, "calls that all wait")
    assert [call.result().body for call in calls] == [b"locked"] * THREADS


def test_fast_calls_are_answered_while_others_wait_for_the_database(server: Server) -> None:
    """18 calls of 0.2 s by six clients take 0.6 s side by side, and 3.6 s one after another."""
    with ThreadPoolExecutor(6) as clients:
        began = time.monotonic()
        calls = [clients.submit(server.get, "/sleep") for _ in range(18)]
        fast = []
        while time.monotonic() - began < 0.6:
            asked = time.monotonic()
            assert server.get("/").status == 200
            fast.append(time.monotonic() - asked)
        assert [call.result().body for call in calls] == [b"slept"] * 18
        assert time.monotonic() - began < 1.8
    assert sorted(fast)[len(fast) * 9 // 10] < 0.1


def test_calls_fail_while_the_database_is_away_and_the_same_worker_serves_once_it_is_back(
    database: PostgreSQL, server: Server, pool: ThreadPoolExecutor
) -> None:
    worker = server.get("/").body
    calls = [pool.submit(server.get, "/long") for _ in range(3)]
    eventually(lambda: waiting(database, "PgSleep") == 3, 10, "calls that all wait")
    database.stop()
    try:
        assert [call.result().status for call in calls] == [500] * 3
        assert [server.get("/one").status for _ in range(3)] == [500] * 3
        assert server.get("/").body == worker
    finally:
        database.start()
    eventually(lambda: server.get("/one").body == b"1", 10, "a call that has its row again")
    calls = [pool.submit(server.get, "/sleep") for _ in range(THREADS)]
    assert [call.result().body for call in calls] == [b"slept"] * THREADS
    assert server.get("/").body == worker
