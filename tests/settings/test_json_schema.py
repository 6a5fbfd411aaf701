"""The JSON Schema says of the file what load says of it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.settings.load import json_schema
from prefork.settings.schema import KINDS, Settings

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]

GOOD = [
    "listen = ':80'",
    "listen = ['127.0.0.1:80', { address = 'unix:x', backlog = 1 }]",
    "workers.count = 4\nworkers.event_loop = 'epoll'\nworkers.boot_timeout = 0.5",
    "workers.count = 'auto'",
    "http.max_body = '16MiB'\nhttp.max_head = 1024",
    "log.format = '$status'\nlog.access = ''",
    "compression = { enabled = true, codings = 'auto', level = 9, min_size = 0, cache = '1MiB' }",
    "compression = { codings = ['gzip', 'br'], types = ['text/*', '*', 'application/vnd.api+json'] }",
    "[[route]]\nstatus = true\ncompression = false",
    "[[route]]\nfiles = 'public'",
    "[[route]]\nhost = '*.a.b'\npath = '/x'\nfiles = { root = 'public', max_age = 3 }",
    "[[route]]\nwsgi = 'a:b'\n[[route]]\npath = '/a'\nredirect = '/b'",
    "[[route]]\nredirect = { to = '/', status = 302 }",
    "[[route]]\nrespond = { status = 404, body = 'x', headers = { A = 'b' } }",
    "[[route]]\nstatus = true",
]
BAD = [
    "listen = []",
    "listen = 3",
    "unknown = 1",
    "workers.count = 'many'",
    "workers.count = true",
    "workers.event_loop = 'x'",
    "workers.boot_timeout = 0",
    "http.max_body = '16MB'",
    "http.max_head = 0",
    "log.format = 'x'",
    "compression = true",
    "compression.codings = ['deflate']",
    "compression.codings = ['gzip', 'gzip']",
    "compression.codings = 'gzip'",
    "compression.level = 0",
    "compression.level = 10",
    "compression.types = ['text/html; charset=utf-8']",
    "compression.types = 'text/html'",
    "[[route]]\nstatus = true\ncompression = { level = 1 }",
    "[[route]]\npath = '/'",
    "[[route]]\npath = 'x'\nstatus = true",
    "[[route]]\nstatus = false",
    "[[route]]\nstatus = true\nwsgi = 'a:b'",
    "[[route]]\nfiles = {}",
    "[[route]]\nredirect = { to = '/', status = 300 }",
    "[[route]]\nrespond.headers.A = 1",
]


def described(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the schema with its own schema."""
    if isinstance(schema, list):
        for item in schema:
            yield from described(item, path)
    elif isinstance(schema, dict):
        for name, key in schema.get("properties", {}).items():
            yield f"{path}{name}", key
            yield from described(key, f"{path}{name}.")
        yield from described([schema.get("items"), schema.get("anyOf")], path)


def test_every_key_has_a_description() -> None:
    keys = dict(described(json_schema()))
    assert {"listen", "listen.backlog", "http.max_head", "route.files.root", "route.respond.headers"} <= keys.keys()
    assert [path for path, key in keys.items() if not key.get("description")] == []


def test_every_default_that_can_be_written_is_there() -> None:
    keys = dict(described(json_schema()))
    unsaid = {path for path, key in keys.items() if "default" not in key}
    tables = {"master", "workers", "http", "websocket", "compression", "log", "file_cache", "route"}
    others = ("files.root", "files.max_age", "redirect.to", "timeout", "max_body", "compression")
    keys_of_routes = {f"route.{key}" for key in (*others, *KINDS)}
    keys_of_listeners = {f"listen.{key}" for key in ("address", "mode", "owner", "group")}
    keys_of_the_master = {f"master.{key}" for key in ("user", "group", "umask")}
    assert unsaid == tables | keys_of_routes | keys_of_listeners | keys_of_the_master
    assert keys["listen"]["default"] == ["127.0.0.1:8000"]
    assert keys["http.max_head"]["default"] == 32768


def test_the_schema_is_plain_json() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_the_source_is_no_key() -> None:
    assert "source" not in json_schema()["properties"]


@pytest.mark.parametrize("text", GOOD)
def test_the_schema_accepts_what_load_accepts(settings: Load, text: str) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    validator.check_schema(json_schema())
    settings(text)
    assert list(validator(json_schema()).iter_errors(tomllib.loads(text))) == []


@pytest.mark.parametrize("text", BAD)
def test_the_schema_refuses_what_load_refuses(problems: Problems, text: str) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    assert problems(text)
    assert list(validator(json_schema()).iter_errors(tomllib.loads(text)))
