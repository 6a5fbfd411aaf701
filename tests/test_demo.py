"""The demo application, called as WSGI has it."""

from __future__ import annotations

import html
import os
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from prefork.demo.app import app


def call(path: str, **environ: Any) -> tuple[str, dict[str, str], str]:
    """Status, headers and text of the answer; the validator has watched it."""
    environ = {"SCRIPT_NAME": "/demo", "PATH_INFO": path, "QUERY_STRING": "", **environ}
    setup_testing_defaults(environ)
    told: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        told.extend([status, dict(headers)])
        return told.append

    body = validator(app)(environ, start_response)
    text = b"".join(body)
    body.close()  # type: ignore[attr-defined]
    status, headers = told
    assert headers["Content-Length"] == str(len(text))
    return status, headers, text.decode()


def test_pid_is_the_workers_pid_alone() -> None:
    status, headers, text = call("/pid")
    assert (status, headers["Content-Type"], text) == ("200 OK", "text/plain; charset=utf-8", f"{os.getpid()}\n")


@pytest.mark.parametrize("path", ["", "/", "/anything", "/pid/"])
def test_any_other_path_is_a_page_about_the_worker(path: str) -> None:
    status, headers, text = call(path)
    assert (status, headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
    assert f"<h1>Worker {os.getpid()}</h1>" in text
    assert f"<code>GET /demo{path}</code>" in text
    assert "curl -s http://127.0.0.1/demo/pid" in text


def test_it_counts_what_it_has_answered() -> None:
    def answered() -> int:
        return int(call("/")[2].partition("has answered ")[2].split(" ")[0])

    first = answered()
    assert [answered(), answered()] == [first + 1, first + 2]


def test_nothing_of_a_request_becomes_markup() -> None:
    bad = "<script>&\"'"
    text = call(f"/{bad}", HTTP_HOST=bad, REQUEST_METHOD="GET")[2]
    assert bad not in text
    assert text.count(html.escape(bad)) == 2


def test_a_path_in_utf_8_is_shown_as_it_was_meant() -> None:
    assert "<code>GET /demo/café €</code>" in call("/café €".encode().decode("latin-1"))[2]
    assert "<code>GET /demo/\N{REPLACEMENT CHARACTER}</code>" in call("/\xff")[2]


def test_http_1_0_without_a_host_gets_a_page_too() -> None:
    environ: dict[str, Any] = {"SERVER_NAME": "localhost", "SERVER_PORT": "8000", "PATH_INFO": "/", "SCRIPT_NAME": ""}
    setup_testing_defaults(environ)
    del environ["HTTP_HOST"]
    assert b"http://localhost:8000/demo/pid" in b"".join(app(environ, lambda *_: None))
