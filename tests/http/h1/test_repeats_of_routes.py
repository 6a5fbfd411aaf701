"""What routes answer when requests are repeated: what their handlers give, with all that is wrapped around them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.handlers.build import Host, build
from prefork.handlers.error_pages import ErrorPages
from prefork.http.message import Handler, Request, Response, plain
from prefork.runtime.threads import ThreadPool
from prefork.settings.schema import Compression, Files, Redirect, Respond, Route, Workers
from prefork.shared.counters import REPEATS, REQUESTS, SENT
from tests.handlers.files.file_trees import file_cache
from tests.http.conftest import GET, World, answering
from tests.http.h1.oracle import Answer

Make = Callable[..., World]
TIMES = 6
TEXT, LARGE = b"text " * 1000, b"large " * 10_000
FORMS: dict[str, tuple[str, str, str]] = {  # method, version, fields
    "GET": ("GET", "1.1", ""),
    "GET of a client that takes gzip": ("GET", "1.1", "Accept-Encoding: gzip\r\n"),
    "GET on a condition": ("GET", "1.1", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n"),
    "GET of a part": ("GET", "1.1", "Range: bytes=1-3\r\n"),
    "GET and close": ("GET", "1.1", "Connection: close\r\n"),
    "HEAD": ("HEAD", "1.1", ""),
    "HEAD of a client that takes gzip": ("HEAD", "1.1", "Accept-Encoding: gzip\r\n"),
    "POST": ("POST", "1.1", ""),
    "HTTP/1.0": ("GET", "1.0", ""),
    "HTTP/1.0, kept alive": ("GET", "1.0", "Connection: keep-alive\r\n"),
}
STATUSES = {"/text.txt": 200, "/large.txt": 200, "/none": 404, "/fixed": 200, "/down": 503, "/elsewhere": 308}


@pytest.fixture(params=[False, True], ids=["unencoded", "encoded"])
def here(request: pytest.FixtureRequest, world: Make, tmp_path: Path) -> World:
    """A world with routes of every kind that may last, and a page for 404."""
    for name, content in (("text.txt", TEXT), ("large.txt", LARGE), ("404.html", b"not here")):
        (tmp_path / name).write_bytes(content)
    routes = [
        Route(path="/", files=Files(root=str(tmp_path))),
        Route(path="/fixed", respond=Respond(body=TEXT.decode(), headers={"date": "now"})),
        Route(path="/down", respond=Respond(status=503, body="later", headers={"Retry-After": "9"})),
        Route(path="/elsewhere", redirect=Redirect(to="/fixed")),
    ]
    here = world(answering(lambda request: Response(500)))
    host = Host(
        ThreadPool(here.loop, 1),
        Workers(),
        dict,
        str(tmp_path),
        file_cache(),
        pages=ErrorPages({"404": str(tmp_path / "404.html")}),
        compression=Compression(enabled=request.param, codings=("gzip",)),
    )
    find = build(routes, host).find

    async def handle(request: Request) -> Response:
        return await find(request)(request)

    here.handler = handle
    return here


def ask(here: World, target: str, form: str, times: int) -> list[Answer]:
    """The answers to one form of request, over and over, on one connection where that lasts."""
    method, version, fields = FORMS[form]
    data = f"{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n".encode()
    if form in ("GET and close", "HTTP/1.0"):
        return [here.talk(data, method)[0] for _ in range(times)]
    peer = here.connect()
    answers = []
    for _ in range(times):
        peer.send(data)
        answers.append(peer.answer(method))
    return answers


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What an answer tells, whenever it is given."""
    own = answer.headers.get("date") == "now"
    fields = {name: value for name, value in answer.headers.items() if own or name != "date"}
    body = gzip.decompress(answer.body) if answer.body[:2] == b"\x1f\x8b" else answer.body
    return answer.status, fields, body


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", STATUSES)
def test_what_is_repeated_is_what_was_said_first(here: World, target: str, form: str) -> None:
    for other in FORMS:  # so that what lasts is known already in other forms
        ask(here, target, other, 1)
    before = here.board[REQUESTS], here.board[SENT], len(here.log)
    answers = ask(here, target, form, TIMES)
    assert [told(answer) for answer in answers] == [told(answers[0])] * TIMES
    if form == "GET":
        assert answers[0].status == STATUSES[target]
    if "close" in form or form == "HTTP/1.0":
        assert {answer.headers["connection"] for answer in answers} == {"close"}
    entries = here.log[before[2] :]
    assert [entry.status for entry in entries] == [answer.status for answer in answers]
    assert [entry.sent - entry.head for entry in entries] == [len(answer.body) for answer in answers]
    assert here.board[REQUESTS] - before[0] == TIMES
    assert here.board[SENT] - before[1] == sum(entry.sent for entry in entries)


@pytest.mark.parametrize("target", STATUSES)
def test_in_a_drain_the_last_answer_says_so(here: World, target: str) -> None:
    data = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode()
    peer = here.connect()
    answers = []
    for _ in range(TIMES):
        peer.send(data)
        answers.append(peer.answer())
    here.server.drain()
    peer.send(data)
    last = peer.answer()
    assert last.headers["connection"] == "close"
    for each in (last, answers[-1]):
        each.headers.pop("connection")
        each.headers.pop("keep-alive", None)
    assert told(last) == told(answers[-1])
    assert peer.rest() == b""


def test_most_of_what_lasts_is_repeated_indeed(here: World) -> None:
    """Or this module would prove nothing."""
    for target in STATUSES:
        ask(here, target, "GET", TIMES)
    assert here.board[REPEATS] >= TIMES // 2


def limit(handler: Handler, most: int) -> Handler:
    """Let `most` requests pass: a wrapper by the rule of `build`."""
    passed = 0

    async def handle(request: Request) -> Response:
        nonlocal passed
        passed += 1
        if passed > most:
            return plain(429)
        response = await handler(request)
        return Response(response.status, response.headers, response.body, response.reason)

    return handle


@pytest.mark.parametrize("target", ["/down", "/large.txt"])
def test_a_wrapper_that_gives_a_plain_response_sees_each_request(here: World, target: str) -> None:
    here.handler = limit(here.handler, TIMES)
    data = GET.replace(b"/ ", target.encode() + b" ", 1)
    peer = here.connect()
    statuses = []
    for _ in range(TIMES + 1):
        peer.send(data)
        statuses.append(peer.answer().status)
    assert statuses == [STATUSES[target]] * TIMES + [429]
    assert here.board[REPEATS] == 0
