"""Error pages: the operator's, for what the server says by itself, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefork.handlers.error_pages import ErrorPages
from prefork.http.message import Request, Response, plain
from prefork.settings.schema import Files, Respond, Route
from tests.handlers.exchange import Answer, exchange, parse, request, routed


@pytest.fixture
def pages(tmp_path: Path) -> ErrorPages:
    (tmp_path / "404.html").write_text("<h1>nothing here</h1>")
    (tmp_path / "405.txt").write_text("not so")
    return ErrorPages({"404": str(tmp_path / "404.html"), "405": str(tmp_path / "405.txt")})


def ask(pages: ErrorPages, target: str, method: str = "GET", *routes: Route) -> Answer:
    return parse(exchange(routed(routes, pages=pages), request(target, method=method)), method)


def test_an_unknown_path_shows_the_page_with_its_type(pages: ErrorPages) -> None:
    got = ask(pages, "/nowhere", "GET", Route(path="/app", respond=Respond()))
    assert (got.status, got.body) == (404, b"<h1>nothing here</h1>")
    assert got.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_missing_file_shows_the_page(pages: ErrorPages, tmp_path: Path) -> None:
    got = ask(pages, "/missing", "GET", Route(files=Files(root=str(tmp_path))))
    assert (got.status, got.body) == (404, b"<h1>nothing here</h1>")


def test_the_other_fields_of_the_answer_stay(pages: ErrorPages, tmp_path: Path) -> None:
    got = ask(pages, "/404.html", "POST", Route(files=Files(root=str(tmp_path))))
    assert (got.status, got.body, got.headers["Allow"]) == (405, b"not so", "GET, HEAD")


def test_an_answer_that_the_operator_or_an_application_gave_stays(pages: ErrorPages) -> None:
    assert ask(pages, "/", "GET", Route(respond=Respond(status=404, body="mine"))).body == b"mine"


def test_a_status_without_a_page_keeps_its_text(pages: ErrorPages) -> None:
    assert pages.with_error_page(plain(500)).body == b"500 Internal Server Error\n"


def test_without_pages_handlers_are_what_they_were() -> None:
    async def handler(request: Request) -> Response:
        return Response(200)

    assert ErrorPages({}).around(handler) is handler


def test_a_page_that_cannot_be_read_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="gone"):
        ErrorPages({"404": "gone/404.html"})
