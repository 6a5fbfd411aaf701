"""A real Flask application, the one of config/examples/flask, on two workers over keep-alive connections."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.e2e import examples
from tests.e2e.conftest import Serve
from tests.e2e.examples import Browser, found
from tests.e2e.harness import Server

WORKER = r"Worker (\d+) answered"
VISITS = r"been here (\d+) times"


@pytest.fixture(scope="module")
def server(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    home = tmp_path_factory.mktemp("flask")
    examples.copy("flask", home)
    return serve_module(examples.config("flask"), examples.contents(home), ["--workers", "2"])


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with Browser(server.port) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_worker_dies(server: Server) -> Iterator[None]:
    before = {worker.pid for worker in server.workers()}
    assert len(before) == 2
    yield
    assert {worker.pid for worker in server.workers()} == before


def test_a_session_lasts_over_requests(browser: Browser) -> None:
    assert [found(VISITS, browser.get("/")) for _ in range(5)] == ["1", "2", "3", "4", "5"]


def test_a_session_is_known_to_both_workers(server: Server) -> None:
    """Each visit by a connection of its own, held open beside the others, until either worker has answered."""
    browsers: list[Browser] = []
    workers: set[str] = set()
    cookies: dict[str, str] = {}

    def visit() -> bool:
        browsers.append(Browser(server.port, cookies=cookies))
        page = browsers[-1].get("/")
        cookies.update(browsers[-1].cookies)
        assert found(VISITS, page) == str(len(browsers))
        workers.add(found(WORKER, page))
        return len(workers) == 2

    try:
        eventually(visit)
    finally:
        for browser in browsers:
            browser.__exit__()
    assert workers == {str(worker.pid) for worker in server.workers()}


def test_a_form_is_read_and_answered_by_a_redirect(browser: Browser) -> None:
    answer = browser.post("/name", {"name": "Zoë & <co>"})
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert found(r"<h1>Hello, (.*)\.</h1>", browser.get("/")) == "Zoë & <co>"


def test_what_is_uploaded_can_be_downloaded(server: Server, browser: Browser) -> None:
    content = os.urandom(5 << 20)
    answer = browser.upload("/uploads", "file", "../up load.bin", content)
    assert (answer.status, answer.headers["Location"]) == (303, "/uploads/up_load.bin")
    assert (server.directory / "uploads" / "up_load.bin").stat().st_size == len(content)
    down = browser.get("/uploads/up_load.bin")
    assert (down.status, down.headers["Content-Length"]) == (200, str(len(content)))
    assert hashlib.sha256(down.body).digest() == hashlib.sha256(content).digest()
    part = browser.request("GET", "/uploads/up_load.bin", Range="bytes=1000000-1000099")
    assert (part.status, part.body) == (206, content[1_000_000:1_000_100])
    assert browser.request("GET", "/uploads/up_load.bin", If_None_Match=down.headers["ETag"]).status == 304
    head = browser.request("HEAD", "/uploads/up_load.bin")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(content)), b"")
    assert b"/uploads/up_load.bin" in browser.get("/").body


def test_an_upload_beyond_the_bound_is_413_while_the_server_lives(server: Server, browser: Browser) -> None:
    answer = browser.request("POST", "/uploads", None, Content_Length=str((64 << 20) + 1))
    assert (answer.status, answer.headers["Connection"]) == (413, "close")
    assert server.get("/").status == 200


def test_a_stream_arrives_whole_and_the_connection_lives(browser: Browser) -> None:
    for _ in range(2):
        answer = browser.get("/squares.csv")
        assert (answer.status, answer.body) == (200, examples.squares())
    head = browser.request("HEAD", "/squares.csv")
    assert (head.status, head.body) == (200, b"")


def test_an_error_is_the_applications_500_page_and_a_traceback_in_the_log(server: Server, browser: Browser) -> None:
    answer = browser.get("/broken")
    assert (answer.status, b"Something went wrong." in answer.body) == (500, True)
    server.wait_log(r"\] application: .*Exception on /broken \[GET\]")
    server.wait_log(r"\] application: ZeroDivisionError: division by zero")
    assert browser.get("/").status == 200


def test_what_is_not_there_is_flasks_404(browser: Browser) -> None:
    answer = browser.get("/uploads/nothing")
    assert (answer.status, b"<title>404 Not Found</title>" in answer.body) == (404, True)
    assert browser.request("DELETE", "/").status == 405


def test_static_files_come_from_the_disk(browser: Browser) -> None:
    style = browser.get(found(r'href="(/static/[^"]*)"', browser.get("/")))
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    assert style.headers["Cache-Control"] == "max-age=3600"
