"""The Flask site on a database: a row by its primary key, a query that waits 20 ms, and pages without any query.

A thread keeps its connection; libpq finds the database by the environment.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from flask import Flask, abort

app = Flask(__name__)
local = threading.local()


def query(statement: str, *values: object) -> tuple[Any, ...] | None:
    """The first row, by this thread's connection."""
    connection = getattr(local, "connection", None)
    if connection is None or connection.closed:
        connection = local.connection = psycopg.connect(autocommit=True)
    row: tuple[Any, ...] | None = connection.execute(statement, values).fetchone()
    return row


@app.get("/")
def plain() -> str:
    return "Hello, world!\n"


@app.get("/pages/<int:number>")
def page(number: int) -> str:
    return "Hello, world!\n"


@app.get("/article/<int:number>")
def article(number: int) -> dict[str, object]:
    row = query("select id, title, body from article where id = %s", number)
    if row is None:
        abort(404)
    return dict(zip(("id", "title", "body"), row, strict=True))


@app.get("/sleep")
def sleep() -> str:
    query("select pg_sleep(0.02)")
    return "Good morning!\n"
