"""Building: route settings become the handlers they describe, mounted where they say."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import TargetError
from prefork.handlers.build import Wrapper, wrapped
from prefork.handlers.error_pages import ErrorPages
from prefork.http.message import Handler, Request, Response, plain
from prefork.settings.schema import Compression, Files, Redirect, Respond, Route
from tests.handlers.exchange import Answer, exchange, parse, request, routed

SHOW = """
def app(environ, start_response):
    start_response("200 OK", [])
    keys = ("SCRIPT_NAME", "PATH_INFO", "wsgi.multiprocess")
    return ["|".join(str(environ[key]) for key in keys).encode()]
"""


@pytest.fixture(autouse=True)
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a module `shown_by_build` with an application."""
    (tmp_path / "shown_by_build.py").write_text(SHOW)
    monkeypatch.syspath_prepend(str(tmp_path))


def ask(routes: Sequence[Route], target: str = "/", *fields: str, multiprocess: bool = True, **how: Any) -> Answer:
    handler = routed(routes, lambda: {"figures": 1}, multiprocess=multiprocess)
    return parse(exchange(handler, request(target, *fields, **how)), how.get("method", "GET"))


def test_every_kind_of_route(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("a page")
    routes = [
        Route(path="/files", files=Files(root=str(tmp_path), max_age=60)),
        Route(path="/wsgi", wsgi="shown_by_build:app"),
        Route(path="/respond", respond=Respond(body="fixed")),
        Route(path="/redirect", redirect=Redirect(to="/elsewhere")),
        Route(path="/status", status=True),
    ]
    files = ask(routes, "/files/page.html")
    assert (files.body, files.headers["Cache-Control"]) == (b"a page", "max-age=60")
    assert ask(routes, "/wsgi/x").body == b"/wsgi|/x|True"
    assert ask(routes, "/respond").body == b"fixed"
    assert ask(routes, "/redirect").headers["Location"] == "/elsewhere"
    assert json.loads(ask(routes, "/status").body) == {"figures": 1}
    assert ask(routes, "/").status == 404


@pytest.mark.parametrize(
    ("path", "target", "seen"),
    [
        ("/", "/app/x", b"|/app/x"),
        ("/app", "/app", b"/app|"),
        ("/app/", "/app", b"/app|"),
        ("/app/", "/app/x", b"/app|/x"),
        ("/café", "/caf%C3%A9/x", "/café|/x".encode().decode("latin-1").encode()),
    ],
)
def test_an_application_is_mounted_at_its_path(path: str, target: str, seen: bytes) -> None:
    assert ask([Route(path=path, wsgi="shown_by_build:app")], target).body == seen + b"|True"


@pytest.mark.parametrize("path", ["/", "/static", "/static/", "/stätic"])
def test_files_are_mounted_at_their_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("a page")
    target = path.rstrip("/").replace("ä", "%C3%A4") + "/page.html"
    assert ask([Route(path=path, files=Files(root=str(tmp_path)))], target).body == b"a page"


def test_the_application_learns_whether_there_are_other_processes() -> None:
    routes = [Route(path="/", wsgi="shown_by_build:app")]
    assert ask(routes, multiprocess=False).body == b"|/|False"


def test_hosts_are_told_apart() -> None:
    routes = [
        Route(respond=Respond(body="any")),
        Route(host="example.com", respond=Respond(body="it")),
        Route(host="*.example.com", respond=Respond(body="below")),
    ]
    hosts = ("example.com:80", "WWW.example.com", "other.org")
    assert [ask(routes, "/", f"Host: {host}").body for host in hosts] == [b"it", b"below", b"any"]


@pytest.mark.parametrize("target", ["no_such_module:app", "shown_by_build:no_app", "shown_by_build:__name__"])
def test_a_target_that_leads_nowhere_is_an_error(target: str) -> None:
    with pytest.raises(TargetError):
        routed([Route(respond=Respond()), Route(path="/x", wsgi=target)])


def test_an_application_may_be_any_callable(tmp_path: Path) -> None:
    (tmp_path / "kinds_of_app.py").write_text(
        "class App:\n"
        "    def __call__(self, environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        return [b'instance']\n"
        "    def method(self, environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        return [b'method']\n"
        "class Returned:\n"
        "    def __init__(self, environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "    def __iter__(self):\n"
        "        yield b'class'\n"
        "app = App()\n"
    )
    answers: Callable[[str], bytes] = lambda name: ask([Route(wsgi=f"kinds_of_app:{name}")]).body  # noqa: E731
    assert [answers(name) for name in ("app", "app.method", "Returned")] == [b"instance", b"method", b"class"]


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_a_route_is_compressed_where_it_says_so_or_else_where_all_are(enabled: bool, said: bool | None) -> None:
    route = Route(respond=Respond(body="text " * 1000), compression=said)
    compression = Compression(enabled=enabled, codings=("gzip",))
    handler = routed([route], compression=compression)
    answer = parse(exchange(handler, request("/", "Accept-Encoding: gzip")))
    assert (answer.headers["Content-Encoding"] == "gzip") is (enabled if said is None else said)


def test_the_pieces_of_an_application_are_compressed_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "pieces_app.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return (b'%d\\n' % number * 1000 for number in range(1000))\n"
    )
    handler = routed([Route(wsgi="pieces_app:app", compression=True)])
    whole = b"".join(b"%d\n" % number * 1000 for number in range(1000))
    encoded, plain = (
        parse(exchange(handler, request("/", "Accept-Encoding: gzip"))),
        ask([Route(wsgi="pieces_app:app")]),
    )
    assert zlib.decompress(encoded.body, 31) == plain.body == whole
    assert len(encoded.body) < len(whole) / 10


def test_error_pages_are_compressed_with_what_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("not here " * 1000)
    pages = ErrorPages({"404": str(tmp_path / "404.html")})
    handler = routed([Route(files=Files(root=str(tmp_path)), compression=True)], pages=pages)
    answer = parse(exchange(handler, request("/none", "Accept-Encoding: gzip")))
    assert (answer.status, zlib.decompress(answer.body, 31)) == (404, b"not here " * 1000)


def test_files_lead_to_nothing_that_another_route_answers_for(tmp_path: Path) -> None:
    public = tmp_path / "public"
    for name in ("secret.html", "docs/index.html", "app.js", "app.js.gz", "private/x", "open/x", "private/open/x"):
        (public / name).parent.mkdir(parents=True, exist_ok=True)
        (public / name).write_text(name)
    refused = Respond(status=403)
    files = Files(root=str(public), try_=("$uri", "$uri.html"), precompressed=True, listing=True)
    routes = [
        Route(path="/", files=files),
        *(
            Route(path=path, respond=refused)
            for path in ("/secret.html", "/docs/index.html", "/app.js.gz", "/private/")
        ),
        Route(path="/private/open", files=Files(root=str(public / "open"))),
        Route(path="/open", redirect=Redirect(to="/")),
    ]
    assert [ask(routes, path).status for path in ("/secret", "/secret.html", "/private")] == [404, 403, 403]
    assert ask(routes, "/app.js", "Accept-Encoding: gzip").body == b"app.js"
    listed = json.loads(ask(routes, "/", "Accept: application/json").body)
    assert [entry["name"] for entry in listed["entries"]] == ["docs", "open", "app.js"]
    assert ask(routes, "/docs/", "Accept: application/json").body.endswith(b'"entries":[]}\n')
    assert ask(routes, "/private/open/x").body == b"open/x"


def test_a_route_for_the_index_that_redirects_to_it_is_none_that_answers_for_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("home")
    routes = [Route(files=Files(root=str(tmp_path))), Route(path="/index.html", redirect=Redirect(to="/"))]
    assert ask(routes, "/").body == b"home"
    assert ask(routes, "/index.html").headers["Location"] == "/"


@pytest.mark.parametrize(
    ("wrappers", "pure"),
    [
        ([], True),
        ([Wrapper(lambda handler: passing(handler), is_pure=True)], True),
        ([Wrapper(lambda handler: passing(handler))], False),
        ([Wrapper(lambda handler: handler)], True),  # it is not in force
        ([Wrapper(lambda handler: passing(handler)), Wrapper(lambda handler: passing(handler), is_pure=True)], False),
    ],
)
def test_a_route_is_repeated_past_its_wrappers_only_where_all_say_that_they_are_pure(
    wrappers: list[Wrapper], pure: bool
) -> None:
    async def inner(request: Request) -> Response:
        return plain(200)

    handler, is_pure = wrapped(inner, wrappers)
    assert is_pure == pure
    assert (handler is inner) == (not any(wrapper.around(inner) is not inner for wrapper in wrappers))


def passing(handler: Handler) -> Handler:
    async def handle(request: Request) -> Response:
        return await handler(request)

    return handle
