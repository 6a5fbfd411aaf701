"""Values: what each key takes and what it refuses."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ConfigError
from prefork.http import grammar
from prefork.settings import kinds
from prefork.settings.load import load
from prefork.settings.schema import Settings

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]

COUNT = 'an integer from 1 to 1024 or "auto"'
SECONDS = "a number of seconds above 0"
SIZE = 'a size: bytes as an integer, or text such as "64KiB", "16MiB" or "1GiB"'
FORMAT = 'one of "common", "combined", "json", or a template with "$" variables'
HOST = 'a host name such as "example.com" or "*.example.com", without a port'
PATH = 'a path that starts with "/" and has no "?", "#", "//", no "." or ".." segments and no control characters'
TARGET = '"module:attribute", such as "myproject.wsgi:application" or "myapp:create_app()"'
HEADER = "latin-1 text without control characters"
LOCATION = "a path or URL in latin-1, without control characters"
FIELDS = '"x-forwarded", "forwarded", or a list of the fields that your proxies write'
LEVELS = 'one of "debug", "info", "warning", "error"'


def document(key: str, value: str) -> str:
    """A config with `key` set to the TOML `value`; a key of a route makes that route, status where it has no kind."""
    if key.startswith("route."):
        extra = "status = true\n" if key in ("route.path", "route.host") else ""
        return f"[[route]]\n{extra}{key.removeprefix('route.')} = {value}"
    return f"{key} = {value}"


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("workers.count", "1", 1),
        ("workers.count", "1024", 1024),
        ("workers.count", '"auto"', "auto"),
        ("workers.event_loop", '"select"', "select"),
        ("workers.boot_timeout", "0.5", 0.5),
        ("workers.boot_timeout", "2", 2.0),
        ("http.max_head", "1", 1),
        ("http.max_body", "0", 0),
        ("http.max_body", '"0B"', 0),
        ("http.max_body", '"10B"', 10),
        ("http.max_body", '"64KiB"', 65536),
        ("http.max_body", '"16 MiB"', 16 << 20),
        ("http.max_body", '"2GiB"', 2 << 30),
        ("http.server_header", "false", False),
        ("http.trusted_proxies", "[]", ()),
        ("http.trusted_fields", '"forwarded"', ("forwarded",)),
        ("http.trusted_fields", '["X-Forwarded-For", "Remote-User"]', ("x-forwarded-for", "remote-user")),
        ("compression.codings", '"auto"', "auto"),
        ("compression.codings", '["gzip", "zstd"]', ("gzip", "zstd")),
        ("compression.codings", "[]", ()),
        ("compression.types", '["Text/*"]', ("text/*",)),
        ("compression.cache", "0", 0),
        ("log.level", '"warning"', "warning"),
        ("log.error", '"error.log"', "error.log"),
        ("log.access", '"public/access.log"', "public/access.log"),
        ("log.access", '""', ""),
        ("log.format", '"json"', "json"),
        ("log.format", '"$status"', "$status"),
    ],
)
def test_a_value_is_taken(settings: Load, key: str, value: str, held: object) -> None:
    assert reduce(getattr, key.split("."), settings(document(key, value))) == held


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("route.path", '"/"', "/"),
        ("route.path", '"/a/.b/c..d/é"', "/a/.b/c..d/é"),
        ("route.host", '""', ""),
        ("route.host", '"WWW.Example.com"', "www.example.com"),
        ("route.host", '"*.example.com"', "*.example.com"),
        ("route.host", '"127.0.0.1"', "127.0.0.1"),
        ("route.host", '"[2001:DB8::7]"', "[2001:db8::7]"),
        ("route.host", '"my_service"', "my_service"),
        ("route.host", '"*.my_service.-x"', "*.my_service.-x"),
        ("route.host", '"example.com."', "example.com"),
        ("route.host", f'"{"a" * 255}"', "a" * 255),
        ("route.wsgi", '"a.b:c.d"', "a.b:c.d"),
        ("route.respond.type", '"text/é"', "text/é"),
        ("route.respond.status", "599", 599),
        ("route.redirect.to", '"https://example.com/é"', "https://example.com/é"),
        ("route.files.max_age", "0", 0),
        ("route.max_body", '"1GiB"\nwsgi = "a:b"', 1 << 30),
    ],
)
def test_a_value_of_a_route_is_taken(settings: Load, key: str, value: str, held: object) -> None:
    extra = {"route.redirect.to": "", "route.files.max_age": "\nfiles.root = 'public'"}.get(key, "")
    loaded = settings(document(key, value) + extra)
    assert reduce(getattr, key.split(".")[1:], loaded.routes[0]) == held


@pytest.mark.parametrize(("mode", "held"), [('"660"', 0o660), ('"0600"', 0o600), ("0o666", 0o666), ("0", 0)])
def test_the_permissions_of_a_unix_socket_are_octal_and_its_owner_a_name_or_a_number(
    settings: Load, mode: str, held: int
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    (listener,) = settings(f'listen = [{{ address = "unix:x", mode = {mode}, owner = "{me}", group = 7 }}]').listen
    assert (listener.mode, listener.owner, listener.group) == (held, os.getuid(), 7)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"unix:x", mode = 660', 'mode: expected permissions such as "660" or 0o660, got 660'),
        ('"unix:x", mode = "888"', 'mode: expected permissions such as "660" or 0o660, got "888"'),
        ('"unix:x", mode = "1777"', 'mode: expected permissions such as "660" or 0o660, got "1777"'),
        ('"unix:x", owner = "nobody-here"', 'owner: expected a user that exists, got "nobody-here"'),
        ('"unix:x", group = "nobody-here"', 'group: expected a group that exists, got "nobody-here"'),
        ('"unix:x", group = -1', "group: expected a group's name or number, got -1"),
        ('"unix:x", reuse_port = true', "reuse_port: expected only beside a port, not unix:x"),
        ('":80", mode = "660"', "mode: expected only beside a unix socket, not 0.0.0.0:80"),
        ('":80", group = 0', "group: expected only beside a unix socket, not 0.0.0.0:80"),
    ],
)
def test_permissions_that_make_no_sense_are_refused(problems: Problems, text: str, problem: str) -> None:
    assert problems(f"listen = [{{ address = {text} }}]") == [f"listen[0].{problem}"]


@pytest.mark.parametrize(
    ("key", "value", "expected", "found"),
    [
        ("workers.count", "true", COUNT, "true"),
        ("workers.count", "1025", COUNT, "1025"),
        ("workers.count", "2.0", COUNT, "2.0"),
        ("workers.count", '"many"', COUNT, '"many"'),
        ("workers.count", "[2]", COUNT, "a list"),
        ("workers.connections", "0", "an integer from 1 to 1048576", "0"),
        ("workers.boot_timeout", "0", SECONDS, "0"),
        ("workers.boot_timeout", "inf", SECONDS, "inf"),
        ("workers.boot_timeout", "nan", SECONDS, "nan"),
        ("workers.boot_timeout", "true", SECONDS, "true"),
        ("workers.boot_timeout", '"30s"', SECONDS, '"30s"'),
        ("workers.boot_timeout", f"0x{'f' * 9000}", SECONDS, "an integer beyond 64 bits"),
        ("http.max_fields", "65536", "an integer from 1 to 65535", "65536"),
        ("http.max_fields", f"0x{'f' * 9000}", "an integer from 1 to 65535", "an integer beyond 64 bits"),
        ("http.max_head", "0", f"{SIZE}, at least 1", "0"),
        ("http.max_head", '"0KiB"', f"{SIZE}, at least 1", '"0KiB"'),
        ("http.max_body", "-1", SIZE, "-1"),
        ("http.max_body", '"16MB"', SIZE, '"16MB"'),
        ("http.max_body", '"16"', SIZE, '"16"'),
        ("http.max_body", '"16MiB\\n"', SIZE, '"16MiB\\n"'),
        ("http.max_body", "1.5", SIZE, "1.5"),
        ("http.server_header", "1", "true or false", "1"),
        ("http.trusted_fields", '"x-real-ip"', FIELDS, '"x-real-ip"'),
        ("http.trusted_fields", '["Host"]', "names of fields that only a proxy writes", '"host"'),
        ("http.trusted_fields", '["a b"]', "names of fields that only a proxy writes", '"a b"'),
        (
            "http.trusted_fields",
            '["Forwarded", "X-Forwarded-For"]',
            "either Forwarded, or X-Forwarded-For and X-Forwarded-Proto",
            "both",
        ),
        ("log.level", '"warn"', LEVELS, '"warn"'),
        ("log.error", '""', '"-" for stderr, or a file name', '""'),
        ("log.error", '"a\\u0000b"', '"-" for stderr, or a file name', '"a\\x00b"'),
        ("log.format", '"combind"', FORMAT, '"combind"'),
        ("log.format", '"json\\n"', FORMAT, '"json\\n"'),
        ("master.pid_file", "false", 'a file name, or "" for none', "false"),
        ("master.control", "7", 'a file name, or "" for none', "7"),
        ("route.path", '"a"', PATH, '"a"'),
        ("route.path", '""', PATH, '""'),
        ("route.path", '"/a?b"', PATH, '"/a?b"'),
        ("route.path", '"/a#b"', PATH, '"/a#b"'),
        ("route.path", '"/a//b"', PATH, '"/a//b"'),
        ("route.path", '"/a/../b"', PATH, '"/a/../b"'),
        ("route.path", '"/."', PATH, '"/."'),
        ("route.path", '"/a\\n"', PATH, '"/a\\n"'),
        ("route.host", '"example.com:80"', HOST, '"example.com:80"'),
        ("route.host", '"*"', HOST, '"*"'),
        ("route.host", '"a.*.com"', HOST, '"a.*.com"'),
        ("route.host", '"*."', HOST, '"*."'),
        ("route.host", '"."', HOST, '"."'),
        ("route.host", '"*.[::1]"', HOST, '"*.[::1]"'),
        ("route.host", '"*.*.com"', HOST, '"*.*.com"'),
        ("route.host", '"::1"', HOST, '"::1"'),
        ("route.host", '"a b"', HOST, '"a b"'),
        ("route.host", '"a\\n"', HOST, '"a\\n"'),
        ("route.host", '"http://a"', HOST, '"http://a"'),
        ("route.host", '"\\u212a"', HOST, '"\u212a"'),
        ("route.host", '"bücher.example"', HOST, '"bücher.example"'),
        ("route.host", f'"{"a." * 127}aa"', HOST, f'"{"a." * 28}a..."'),
        ("route.wsgi", '":app"', TARGET, '":app"'),
        ("route.wsgi", '"a-b:c"', TARGET, '"a-b:c"'),
        ("route.wsgi", '"a.class:b"', TARGET, '"a.class:b"'),
        ("route.wsgi", '"a:b:c"', TARGET, '"a:b:c"'),
        (
            "http.trusted_proxies",
            '["*"]',
            'addresses, networks such as "10.0.0.0/8", or "unix"',
            '"*"; for all of them write "0.0.0.0/0", "::/0" and "unix"',
        ),
        ("route.files", '"publc"', "an existing directory", '"publc"'),
        ("route.files.root", '"server.toml"', "an existing directory", '"server.toml"'),
        ("route.files.index", '"../x"', 'a file name without "/", several, or "" for none', '"../x"'),
        ("route.files.symlinks", '"some"', 'one of "inside", "owner", "all", "none"', '"some"'),
        ("route.files.cache_control.a", '"a\\nb"', HEADER, '"a\\nb"'),
        ("route.files.max_ranges", "0", "an integer from 1 to 10000", "0"),
        ("route.status", "false", "true", "false"),
        ("route.respond.status", "199", "an integer from 200 to 599", "199"),
        ("route.respond.body", "3", "a text", "3"),
        ("route.respond.type", '"a\\r\\nb"', HEADER, '"a\\r\\nb"'),
        ("route.respond.type", '"€"', HEADER, '"€"'),
        ("route.respond.headers.A", '"a\\nb"', HEADER, '"a\\nb"'),
        ("route.respond.headers.A", '"\\u0000"', HEADER, '"\\x00"'),
        ("route.respond.headers.A", "3", HEADER, "3"),
        ("route.redirect", '"/a\\r\\nSet-Cookie: b"', LOCATION, '"/a\\r\\nSet-Cookie: b"'),
        ("route.redirect", '""', LOCATION, '""'),
        ("route.redirect", '"/€"', LOCATION, '"/€"'),
    ],
)
def test_a_wrong_value_is_told_as_expected_and_found(
    problems: Problems, key: str, value: str, expected: str, found: str
) -> None:
    path = key.replace("route.", "route[0].")
    extra = "\nfiles.root = 'public'" if key.startswith("route.files.") and key != "route.files.root" else ""
    assert problems(document(key, value) + extra) == [f"{path}: expected {expected}, got {found}"]


@given(st.from_regex(grammar.HOST, fullmatch=True))
def test_a_route_may_name_every_host_that_a_request_may(field: str) -> None:
    """Without its port and final dots, as routes are found; what looks like a pattern or a variable is no host."""
    host = re.sub(r":[0-9]*\Z", "", field).rstrip(".")
    if host and not {"*", "~", "$"} & set(host) and not host.startswith(".") and host != "_":
        assert kinds.HOST.convert(host) == host.lower()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Content-Length", "Content-Length: expected no Content-Length header: the server sets it itself"),
        *(
            (name, f"{name}: expected no {name} header: the server sets it itself")
            for name in sorted(grammar.HOP_BY_HOP)
        ),
        ("Content-Type", 'Content-Type: expected no Content-Type header: write "type" beside "headers"'),
        ('"A B"', '"A B": expected a header name of letters, digits and dashes, got "A B"'),
        ('"A\\n"', '"A\\n": expected a header name of letters, digits and dashes, got "A\\n"'),
    ],
)
def test_a_header_that_must_not_be_sent_is_refused(problems: Problems, name: str, problem: str) -> None:
    assert problems(f"[[route]]\nrespond.headers.{name} = 'x'") == [f"route[0].respond.headers.{problem}"]


PATTERNS = {
    "SIZE": (kinds.size(0), "64KiB"),
    "ERROR_STATUS": (kinds.ERROR_STATUS, "404"),
    "MODE": (kinds.MODE, "660"),
    "UMASK": (kinds.UMASK, "027"),
    "LOG_FORMAT": (kinds.LOG_FORMAT, "json"),
    "PATH": (kinds.PATH, "/a"),
    "TARGET": (kinds.TARGET, "a:f()"),
}
LISTS = {"MEDIA_TYPES": (kinds.MEDIA_TYPES, "text/*")}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_takes_no_line_end_behind_what_it_takes(name: str) -> None:
    kind, text = PATTERNS[name]
    kind.convert(text)
    with pytest.raises(ValueError, match=r"^expected"):
        kind.convert(f"{text}\n")


@pytest.mark.parametrize("name", LISTS)
def test_nor_does_a_pattern_of_what_is_in_a_list(name: str) -> None:
    kind, text = LISTS[name]
    kind.convert([text])
    with pytest.raises(ValueError, match=r"^expected"):
        kind.convert([f"{text}\n"])


def test_every_pattern_is_among_them() -> None:
    named = {
        name for name, kind in vars(kinds).items() if isinstance(kind, kinds.Kind) and "pattern=" in str(kind.written)
    }
    assert named == (PATTERNS.keys() | LISTS.keys()) - {"SIZE"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_has_a_status_that_redirects(settings: Load, problems: Problems, status: int) -> None:
    route = settings(f"[[route]]\nredirect = {{ to = '/', status = {status} }}").routes[0]
    assert route.redirect is not None
    assert route.redirect.status == status
    assert problems(f"[[route]]\nredirect = {{ to = '/', status = {status - 100} }}") == [
        f"route[0].redirect.status: expected one of 301, 302, 303, 307, 308, got {status - 100}"
    ]


@pytest.mark.parametrize("key", ["error", "access"])
def test_the_directory_of_a_log_file_must_exist(problems: Problems, key: str) -> None:
    assert problems(f"log.{key} = 'logs/a.log'") == [
        f'log.{key}: expected a file in an existing directory, got "logs/a.log": no directory "logs"'
    ]


def test_a_relative_path_needs_a_current_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current directory is gone"):
        load(None, app="a:b")


def test_a_long_text_is_repeated_in_part(problems: Problems) -> None:
    (problem,) = problems(f"log.level = '{'x' * 1000}'")
    assert problem.endswith(f'got "{"x" * 57}..."')


def test_a_wsgi_module_is_not_imported(here: Path, settings: Load) -> None:
    (here / "trap.py").write_text("raise RuntimeError")
    assert settings("[[route]]\nwsgi = 'trap:app'").routes[0].wsgi == "trap:app"
