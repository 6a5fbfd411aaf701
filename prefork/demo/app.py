"""A WSGI application that shows which worker answered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

_born = time.monotonic()
_answered = 0

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Worker {pid}</title>
<link rel="stylesheet" href="/style.css">
<main>
<h1>Worker {pid}</h1>
<p>This page was made by a WSGI application, in worker process <strong>{pid}</strong>, which is {age:.0f} s old and
has answered {answered} requests here. A connection stays with its worker; another connection may meet another:</p>
<pre>for i in 1 2 3 4 5 6 7 8; do curl -s http://{host}/demo/pid; done</pre>
<p>It was asked for <code>{method} {path}</code>. <a href="/">Back</a></p>
</main>
"""


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application: `/pid` is answered with the worker's pid alone, any other path with a page."""
    global _answered
    _answered += 1
    if environ["PATH_INFO"] == "/pid":
        body, kind = f"{os.getpid()}\n", "text/plain; charset=utf-8"
    else:
        kind = "text/html; charset=utf-8"
        body = PAGE.format(
            pid=os.getpid(),
            age=time.monotonic() - _born,
            answered=_answered,
            host=escape(environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"),
            method=escape(environ["REQUEST_METHOD"]),
            path=escape((environ["SCRIPT_NAME"] + environ["PATH_INFO"]).encode("latin-1").decode("utf-8", "replace")),
        )
    text = body.encode("utf-8")
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(text)))])
    return [text]
