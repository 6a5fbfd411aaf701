"""The configuration that comes with prefork: it serves what a newcomer is told to look at, and tells no lies."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from prefork.settings.address import Address
from prefork.settings.load import load
from prefork.settings.schema import (
    Compression,
    FileCache,
    Files,
    Http,
    Listener,
    Log,
    Master,
    Redirect,
    Respond,
    Route,
    Settings,
    Websocket,
    Workers,
)
from prefork.settings.tables import keys
from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT, Server

SHIPPED = (ROOT / "config" / "server.toml").read_text()


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """The shipped file but for the port; the directory that it names is where it is in a checkout."""
    demo_files = {
        str(path.relative_to(ROOT)): path.read_bytes() for path in (ROOT / "prefork" / "demo" / "static").iterdir()
    }
    assert SHIPPED.count("127.0.0.1:8000") == 1
    return serve_module(SHIPPED.replace("127.0.0.1:8000", "127.0.0.1:PORT"), demo_files, ["--workers", "2"])


def test_the_welcome_page_and_all_that_it_links_to_is_there(server: Server) -> None:
    page = server.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'href="([^":]*)"', page.body.decode())
    assert links == ["style.css", "/demo/", "/status"]
    for link in links:
        assert server.get("/" + link.removeprefix("/")).status == 200


def test_the_welcome_page_tells_of_commands_that_there_are(server: Server) -> None:
    told = re.findall(r"^(?:<pre>)?bin/prefork (\w+)", server.get("/").body.decode(), re.MULTILINE)
    assert told == ["check", "reload", "status", "stop"]
    for name in ("check", "reload", "status"):  # `stop` is for the end
        result = server.command(name)
        assert (result.returncode, result.stderr) == (0, "")
    eventually(lambda: len(server.workers()) == 2)  # those of before the reload have left


def test_the_demo_is_answered_by_several_workers(server: Server) -> None:
    pids: set[int] = set()

    def both() -> bool:
        pids.add(int(server.get("/demo/pid").body))
        return len(pids) == 2

    eventually(both)
    assert pids == {worker.pid for worker in server.workers()}
    for path in ("/demo", "/demo/", "/demo/x"):
        page = server.get(path).body.decode()
        assert re.search(r"<h1>Worker (\d+)</h1>", page)
        assert f"GET {path}</code>" in page
        assert f"http://127.0.0.1:{server.port}/demo/pid" in page
        assert 'href="/style.css"' in page


def test_status_shows_every_worker_and_what_it_did(server: Server) -> None:
    for _ in range(5):
        server.get("/demo/pid")
    answer = server.get("/status")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    figures = json.loads(answer.body)
    assert figures["totals"]["requests"] >= 5
    serving = [worker["pid"] for worker in figures["workers"] if worker["state"] == "serving"]
    assert sorted(serving) == sorted(worker.pid for worker in server.workers())


def test_what_is_not_there_is_404(server: Server) -> None:
    assert [server.get(path).status for path in ("/nothing", "/demonic", "/statusx")] == [404, 404, 404]


# --- what the file says of itself: "Every key is shown with its default" ---

TABLES = {
    "master": Master,
    "workers": Workers,
    "http": Http,
    "websocket": Websocket,
    "compression": Compression,
    "log": Log,
    "file_cache": FileCache,
}
ROUTE_TABLES = (Route, Files, Respond, Redirect, Listener)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(ROOT)
    return load("config/server.toml")


@pytest.mark.parametrize("table", ["listen", *TABLES])
def test_every_value_that_it_shows_is_the_default(shipped: Settings, table: str) -> None:
    assert getattr(shipped, table) == getattr(Settings(), table)


@pytest.mark.parametrize("table", TABLES)
def test_it_shows_every_key_of_a_table(table: str) -> None:
    """In order; in a comment where its default is that it is not there."""
    section = re.split(rf"^\[{table}\]", SHIPPED, flags=re.MULTILINE)[1].partition("\n[")[0]
    shown = re.findall(r"^(# )?(\w+) *= ", section, re.MULTILINE)
    assert shown == [("# " if key.default is None else "", name) for name, key in keys(TABLES[table]).items()]


def test_it_shows_every_table() -> None:
    assert list(tomllib.loads(SHIPPED)) == ["listen", *TABLES, "error_pages", "route"] == list(keys(Settings))


@pytest.mark.parametrize(("table", "key"), [(table, key) for table in ROUTE_TABLES for key in keys(table)])
def test_it_mentions_every_key_of_a_route_and_of_a_listener(table: type[Any], key: str) -> None:
    assert re.search(rf"\b{key}\b *=", SHIPPED), f"{table.__name__}.{key}"


def test_what_it_mentions_in_comments_is_valid_as_well(shipped: Settings, tmp_path: Any) -> None:
    """Each route of the comments, put in place, is read without a problem."""
    lines = re.findall(r"^#   (files|app|wsgi|asgi|respond|redirect|status) +(=.*)$", SHIPPED, re.MULTILINE)
    assert {kind for kind, _ in lines} == {"files", "app", "wsgi", "asgi", "respond", "redirect", "status"}
    (tmp_path / "public").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for kind, value in lines:
            for form in [value, *re.findall(r"# or (\{.*\})", value)]:
                text = f"[[route]]\n{kind} {form if form.startswith('=') else '= ' + form}\n"
                (tmp_path / "server.toml").write_text(text)
                assert getattr(load("server.toml").routes[0], kind)


def test_defaults_that_its_comments_tell_are_true() -> None:
    listener = Listener(address=Address.parse(":1"))
    assert f"backlog = {listener.backlog}" in SHIPPED
    assert f"status = {Redirect(to='/').status}" in SHIPPED
    assert f'status = {Respond().status}, body = "hello", type = "{Respond().type}"' in SHIPPED


def test_the_table_of_files_in_its_comments_shows_every_key_with_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = SHIPPED.partition("\n# A table of files has")[2].partition("\n\n")[0]
    lines = re.findall(r"^#   (\w+ += .*)$", block, re.MULTILINE)
    (tmp_path / "public").mkdir()
    (tmp_path / "server.toml").write_text("[[route]]\n[route.files]\n" + "\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert load("server.toml").routes[0].files == Files(root="public", max_age=3600)
    assert [line.split()[0] for line in lines] == list(keys(Files))


def test_its_lines_are_short() -> None:
    assert max(map(len, SHIPPED.splitlines())) <= 120
