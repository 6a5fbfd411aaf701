"""Loading: the file as a whole, its tables, its routes, and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import ConfigError
from prefork.settings.address import Address
from prefork.settings.kinds import size
from prefork.settings.load import load
from prefork.settings.overrides import Override
from prefork.settings.schema import FileCache, Files, Http, Log, Master, Redirect, Respond, Route, Settings, Workers

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]


def refusal(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return problem


# The file


def test_a_route_alone_is_a_whole_config_and_the_rest_is_defaults(settings: Load) -> None:
    loaded = settings("[[route]]\nwsgi = 'app:app'")
    assert loaded == Settings(routes=(Route(wsgi="app:app"),), source="server.toml")
    assert [str(listener.address) for listener in loaded.listen] == ["127.0.0.1:8000"]
    assert loaded.listen[0].backlog == 2048
    assert (loaded.master, loaded.workers, loaded.http, loaded.log) == (Master(), Workers(), Http(), Log())


def test_every_table_is_read(settings: Load) -> None:
    loaded = settings(
        """
        listen = ["127.0.0.1:8000", { address = "unix:run/app.sock", backlog = 16 }]
        [master]
        pid_file = "a.pid"
        control = "a.sock"
        [workers]
        count = 3
        event_loop = "poll"
        graceful_timeout = 1.5
        [http]
        max_head = "1KiB"
        max_body = 0
        server_header = false
        [log]
        error = "public/error.log"
        level = "debug"
        access = ""
        format = "$method $path"
        [file_cache]
        memory = "1MiB"
        valid = 0
        [[route]]
        host = "*.Example.COM"
        path = "/static/"
        files = { root = "public", index = "", max_age = 60, listing = true }
        [[route]]
        [route.files]
        root = "public"
        index = ["index.html", "index.htm"]
        try = ["$uri", "/index.html"]
        cache_control = { "*.html" = "no-cache", "/assets/*" = "max-age=31536000, immutable" }
        types = { ".md" = "text/html", LICENSE = "text/plain" }
        precompressed = true
        hidden = true
        symlinks = "owner"
        max_ranges = 1
        [[route]]
        path = "/other"
        respond = { status = 204, type = "text/html", headers = { Allow = "GET" } }
        """
    )
    assert [(str(item.address), item.backlog) for item in loaded.listen] == [
        ("127.0.0.1:8000", 2048),
        ("unix:run/app.sock", 16),
    ]
    assert loaded.master == Master(pid_file="a.pid", control="a.sock")
    assert loaded.workers == Workers(count=3, event_loop="poll", graceful_timeout=1.5)
    assert loaded.http == Http(max_head=1024, max_body=0, server_header=False)
    assert loaded.log == Log(error="public/error.log", level="debug", access="", format="$method $path")
    assert loaded.file_cache == FileCache(memory=1 << 20, valid=0)
    assert loaded.routes == (
        Route(host="*.example.com", path="/static/", files=Files(root="public", index=("",), max_age=60, listing=True)),
        Route(
            files=Files(
                root="public",
                index=("index.html", "index.htm"),
                try_=("$uri", "/index.html"),
                cache_control={"*.html": "no-cache", "/assets/*": "max-age=31536000, immutable"},
                types={".md": "text/html", "LICENSE": "text/plain"},
                precompressed=True,
                hidden=True,
                symlinks="owner",
                max_ranges=1,
            )
        ),
        Route(path="/other", respond=Respond(status=204, type="text/html", headers={"Allow": "GET"})),
    )


def test_a_text_stands_for_a_table_with_one_key(settings: Load) -> None:
    loaded = settings(
        """
        listen = ":8000"
        [[route]]
        files = "public"
        [[route]]
        path = "/old"
        redirect = "/new"
        """
    )
    assert [item.address for item in loaded.listen] == [Address("tcp", "0.0.0.0", 8000)]
    assert [route.files for route in loaded.routes] == [Files(root="public"), None]
    assert [route.redirect for route in loaded.routes] == [None, Redirect(to="/new", status=308)]


def test_every_problem_is_told_at_once(problems: Problems) -> None:
    assert problems("[workers]\ncount = 0\nevent_loop = 'x'\n[http]\nmax_fields = 0\n[[route]]\npath = 'x'\n") == [
        'workers.count: expected an integer from 1 to 1024 or "auto", got 0',
        'workers.event_loop: expected one of "auto", "select", "poll", "epoll", "kqueue", got "x"',
        "http.max_fields: expected an integer from 1 to 65535, got 0",
        'route[0].path: expected a path that starts with "/" and has no "?", "#", "//", no "." or ".." segments '
        'and no control characters, got "x"',
        "route[0]: expected exactly one of files, app, wsgi, asgi, respond, redirect, status; found none",
    ]


def test_a_missing_file_is_named(here: Path) -> None:
    assert refusal("x.toml") == "x.toml: no such file; name another with -c, or an application such as myapp:app"


def test_a_directory_is_no_config_file(here: Path) -> None:
    assert refusal("public") == "public: cannot be read: is a directory"


def test_a_file_without_permission_is_named(here: Path) -> None:
    Path("server.toml").touch(mode=0)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read everything, so be nobody for a moment
    try:
        problem = refusal("server.toml")
    finally:
        os.seteuid(user)
    assert problem == "server.toml: cannot be read: permission denied"


def test_a_path_through_a_file_is_told_as_the_system_says_it(here: Path) -> None:
    Path("server.toml").touch()
    assert refusal("server.toml/x") == "server.toml/x: cannot be read: not a directory"


def test_invalid_utf8_is_told_with_its_line(here: Path) -> None:
    Path("server.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    assert refusal("server.toml") == "server.toml: line 2: expected UTF-8, got the byte 0xff"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\nb = = 2\n", "line 2: b: invalid value (column 5)"),
        ("a = 1\nb = [\n", "line 2: b: invalid value (end of the file)"),
        ("[workers]\ncount = 1\ncount = 2\n", "line 3: workers.count: is given already (column 10)"),
        ("[workers]\n[log]\n[workers]\n", "line 3: [workers]: is given already (column 9)"),
        ("[workers]\n[[workers]]\n", "line 2: [[workers]]: is given already (column 10)"),
        ("workers.count = 1\nworkers.count.x = 2", "line 2: workers.count.x: is given already (end of the file)"),
        ("[[route]]\n[[route]]\npath = '/'\npath = '/a'\n", "line 4: route[1].path: is given already (column 12)"),
        ("[[route]]\n[route.files]\nroot = x\n", "line 3: route[0].files.root: invalid value (column 8)"),
        ("listen = [\n  ':80'\n  ':81'\n]\n", "line 3: listen: unclosed array (column 3)"),
        ("[workers]\nenv = { A = '1', A = '2' }\n", "line 2: workers.env: duplicate inline table key 'A' (column 25)"),
        ("workers:\n  count: 2\n", "line 1: expected '=' after a key in a key/value pair (column 8)"),
        ("[log\n", "line 1: [log]: expected ']' at the end of a table declaration (column 5)"),
        ("a = " + "[" * 5000, "lists or tables are nested too deeply"),
        ("a = " + "1" * 5000, "a number has too many digits"),
    ],
)
def test_a_syntax_error_is_told_with_its_line_and_its_key(here: Path, text: str, problem: str) -> None:
    Path("server.toml").write_text(text)
    assert refusal("server.toml") == f"server.toml: {problem}"


def test_a_configuration_of_gunicorn_is_told_from_a_broken_one(here: Path) -> None:
    Path("gunicorn.conf.py").write_text("workers = 4\n")
    assert refusal("gunicorn.conf.py").startswith("gunicorn.conf.py: expected TOML, got Python, as gunicorn's")


# Keys


ABOVE = "this key belongs to the top of the file, above the first [table]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[workers]\nconections = 1", 'workers.conections: unknown key (did you mean "connections"?)'),
        ("[workers]\nmax_body = 1", 'workers.max_body: unknown key (did you mean "http.max_body"?)'),
        ("[workers]\nheader_timeout = 1", 'workers.header_timeout: unknown key (did you mean "http.header_timeout"?)'),
        ("[workers]\nthread = 1", 'workers.thread: unknown key (did you mean "threads"?)'),
        ("pid_file = 'x'", 'pid_file: unknown key (did you mean "master.pid_file"?)'),
        ("source = 'x'", "source: unknown key"),
        ("routes = []\n[[route]]\nstatus = true", 'routes: unknown key (did you mean "route"?)'),
        ("[worker]\ncount = 1", 'worker: unknown key (did you mean "workers"?)'),
        ("[[route]]\nwsgl = 'a:b'", 'route[0].wsgl: unknown key (did you mean "wsgi"?)'),
        ("[[route]]\nfiles = {root='public', cgi=true}", "route[0].files.cgi: unknown key"),
        ("listen = [{address=':1', baklog=1}]", 'listen[0].baklog: unknown key (did you mean "backlog"?)'),
        ('"a\\nb" = 1', '"a\\nb": unknown key'),
        ("[[route]]\nstatus = true\nlisten = [':1']", f"route[0].listen: unknown key ({ABOVE})"),
        ("[log]\nlisten = [':1']", f"log.listen: unknown key ({ABOVE})"),
        ("[workers.http]\nmax_body = 1", f"workers.http: unknown key ({ABOVE})"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(problems: Problems, text: str, problem: str) -> None:
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen = [{backlog = 1}]", "listen[0].address: a required key is missing"),
        ("[[route]]\nfiles = {}", "route[0].files.root: a required key is missing"),
        ("[[route]]\nredirect = {}", "route[0].redirect.to: a required key is missing"),
    ],
)
def test_a_missing_key_is_named(problems: Problems, text: str, problem: str) -> None:
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http = 3", "http: expected a table, got 3"),
        ("http = [1]", "http: expected a table, got a list"),
        ("listen = 3", "listen: expected a text, or a list of texts and tables, got 3"),
        ("listen = [3]", "listen[0]: expected a text or a table, got 3"),
        ("[route]\nstatus = true", "route: expected tables headed [[route]], got a table"),
        ("route = ['x']", 'route[0]: expected a table, got "x"'),
        (
            "[[route]]\nfiles = 2001-01-01",
            "route[0].files: expected a text or a table, got the date or time 2001-01-01",
        ),
        ("[[route]]\nrespond = 'x'", 'route[0].respond: expected a table, got "x"'),
        ("[[route]]\nrespond.headers = 'x'", 'route[0].respond.headers: expected a table, got "x"'),
    ],
)
def test_a_value_in_the_place_of_a_table_is_told(problems: Problems, text: str, problem: str) -> None:
    assert problems(text) == [problem]


# Addresses


def test_an_empty_list_of_addresses_is_an_error(problems: Problems) -> None:
    assert problems("listen = []") == ["listen: expected at least one address, got an empty list"]


def test_an_address_written_twice_is_an_error(problems: Problems) -> None:
    text = "listen = ['0.0.0.0:80', '127.0.0.1:80', { address = ':80', backlog = 1 }]"
    assert problems(text) == ["listen[2]: the same address as listen[0]"]


@pytest.mark.parametrize("key", ["listen", "master.control"])
def test_a_socket_path_beyond_the_limit_of_unix_is_an_error(here: Path, problems: Problems, key: str) -> None:
    name = "s" * (101 - len(os.fsencode(here / "x")) + 1)
    (problem,) = problems(f"{key} = '{'unix:' if key == 'listen' else ''}{name}'")
    assert problem.startswith(f"{key}: expected a path of at most 100 bytes when absolute")
    assert "got 101 bytes" in problem


def test_the_default_control_path_can_be_too_long_as_well(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = here / ("d" * 100)
    deep.mkdir()
    (deep / "server.toml").write_text("[[route]]\nstatus = true\n")
    monkeypatch.chdir(deep)
    assert refusal("server.toml").startswith("server.toml: master.control: expected a path of at most 100 bytes")


# Routes


def test_at_least_one_route_is_required(problems: Problems) -> None:
    missing = ["route: expected at least one [[route]], or an application on the command line"]
    assert problems("route = []") == missing


def test_without_a_file_and_an_application_there_is_nothing_to_serve(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None)
    assert caught.value.problems == ("route: expected at least one [[route]], or an application on the command line",)


def test_a_route_of_two_kinds_is_an_error(problems: Problems) -> None:
    assert problems("[[route]]\nfiles = 'public'\nwsgi = 'a:b'") == [
        "route[0]: expected exactly one of files, app, wsgi, asgi, respond, redirect, status; found files and wsgi"
    ]


@pytest.mark.parametrize("kind", ["asgi = 'a:b'", "app = 'a:b'"])
def test_a_lifespan_is_auto_or_off(problems: Problems, kind: str) -> None:
    wrong = 'route[0].lifespan: expected one of "auto", "off", got "on"'
    assert problems(f"[[route]]\n{kind}\nlifespan = 'on'") == [wrong]


def test_a_lifespan_beside_anything_else_than_an_asgi_application_is_an_error(problems: Problems) -> None:
    text = "[[route]]\nwsgi = 'a:b'\nlifespan = 'off'"
    assert problems(text) == ["route[0].lifespan: expected only beside asgi or app"]


@pytest.mark.parametrize("kind", ["asgi = 'a:b'", "redirect = '/'"])
def test_request_buffering_beside_anything_else_than_a_wsgi_application_is_an_error(
    problems: Problems, kind: str
) -> None:
    wrong = "route[0].request_buffering: expected only beside wsgi or app"
    assert problems(f"[[route]]\n{kind}\nrequest_buffering = false") == [wrong]


@pytest.mark.parametrize("kind", ["files = 'public'", "redirect = '/'", "status = true", "respond = {}"])
def test_max_body_beside_anything_that_reads_no_body_is_an_error(problems: Problems, kind: str) -> None:
    wrong = "route[0].max_body: expected only beside wsgi or asgi or app"
    assert problems(f"[[route]]\n{kind}\nmax_body = 1") == [wrong]


def test_max_body_replaces_that_of_the_file(settings: Load) -> None:
    text = "[http]\nmax_body = 2\nmax_head = 7"
    assert settings(text, overrides=[Override("--max-body", "http.max_body", "1MiB")]).http == Http(
        max_body=1 << 20, max_head=7
    )
    assert settings(text, overrides=[Override("--max-body", "http.max_body", "0")]).http == Http(max_body=0, max_head=7)


def test_a_route_of_no_kind_is_an_error(problems: Problems) -> None:
    assert problems("[[route]]\npath = '/a'") == [
        "route[0]: expected exactly one of files, app, wsgi, asgi, respond, redirect, status; found none"
    ]


@pytest.mark.parametrize(("one", "other"), [("/app", "/app"), ("/app", "/app/"), ("/", "/")])
def test_two_routes_for_the_same_requests_are_an_error(problems: Problems, one: str, other: str) -> None:
    text = f"[[route]]\npath = '{one}'\nstatus = true\n[[route]]\npath = '{other}'\nwsgi = 'a:b'"
    assert problems(text) == ["route[1]: the same host and path as route[0]"]


def test_the_same_path_of_two_hosts_is_two_routes(settings: Load) -> None:
    text = "[[route]]\nhost = 'a.example'\nstatus = true\n[[route]]\nhost = 'b.example'\nstatus = true"
    assert [route.host for route in settings(text).routes] == ["a.example", "b.example"]


@pytest.mark.parametrize("pattern", ["/app/index.html", "/app", "/app$uri", "/app/$uri.html"])
def test_a_name_to_try_for_which_another_route_answers_is_an_error(
    settings: Load, problems: Problems, pattern: str
) -> None:
    text = f"[[route]]\nfiles = {{ root = 'public', try = ['$uri', '{pattern}'] }}\n[[route]]\npath = '/app/'\n"
    assert problems(text + "wsgi = 'a:b'") == [
        f'route[0].files.try: expected files of this route, got "{pattern}", for which another route answers'
    ]
    assert settings(text + "files = 'public'")
    assert settings(text + "redirect = '/'")
    assert settings(text.replace(pattern, "/apps$uri") + "wsgi = 'a:b'")


def test_hosts_that_differ_in_case_alone_are_one(problems: Problems) -> None:
    text = "[[route]]\nhost = 'a.example'\nstatus = true\n[[route]]\nhost = 'A.example'\nstatus = true"
    assert problems(text) == ["route[1]: the same host and path as route[0]"]


# The command line


def test_an_application_alone_is_enough(here: Path) -> None:
    assert load(None, app="pkg.mod:make.app") == Settings(routes=(Route(app="pkg.mod:make.app"),))


def test_an_application_takes_the_route_of_every_host_and_leaves_the_others(settings: Load) -> None:
    text = "[[route]]\nstatus = true\n[[route]]\npath = '/s'\nstatus = true\n[[route]]\nhost = 'h'\nstatus = true"
    loaded = settings(text, app="a:b")
    assert sorted((r.host, r.path, r.app or "") for r in loaded.routes) == [
        ("", "/", "a:b"),
        ("", "/s", ""),
        ("h", "/", ""),
    ]


def test_an_application_makes_up_for_a_file_without_routes(settings: Load) -> None:
    assert settings("route = []", app="a:b").routes == (Route(app="a:b"),)


def test_a_directory_alone_is_enough(here: Path) -> None:
    assert load(None, files="public") == Settings(routes=(Route(files=Files(root="public")),))
    listed = Route(files=Files(root="public", listing=True))
    assert load(None, files="public", listing=True) == Settings(routes=(listed,))


def test_a_directory_takes_the_route_of_every_host_and_leaves_the_others(settings: Load) -> None:
    loaded = settings("[[route]]\nstatus = true\n[[route]]\npath = '/s'\nstatus = true", files="public")
    assert sorted((r.path, r.status, r.files and r.files.root) for r in loaded.routes) == [
        ("/", False, "public"),
        ("/s", True, None),
    ]


def test_listen_replaces_the_addresses_of_the_file(settings: Load) -> None:
    loaded = settings("listen = '127.0.0.1:1'", listen=["127.0.0.1:0", "unix:a.sock"])
    assert [str(listener.address) for listener in loaded.listen] == ["127.0.0.1:0", "unix:a.sock"]


def count(value: str) -> Override:
    return Override("--workers", "workers.count", value)


def test_workers_replaces_the_count_alone(settings: Load) -> None:
    text = "[workers]\ncount = 2\nconnections = 7"
    assert settings(text, overrides=[count("4")]).workers == Workers(count=4, connections=7)
    assert settings(text, overrides=[count("auto")]).workers == Workers(connections=7)


def test_an_option_takes_the_place_of_its_key_and_entries_join_those_of_the_file(settings: Load) -> None:
    text = "[workers]\nthreads = 2\nenv = { A = 'a', B = 'b' }\n[http]\ntrusted_proxies = ['10.0.0.1']\n"
    overrides = [
        Override("--threads", "workers.threads", "4"),
        Override("--timeout", "workers.timeout", "0.5"),
        Override("--preload", "workers.preload", True),
        Override("--env", "workers.env", {"B": "=", "C": "c"}),
        Override("--forwarded-allow-ips", "http.trusted_proxies", ["unix"]),
        Override("--umask", "master.umask", "027"),
        Override("--user", "master.user", "0"),
    ]
    loaded = settings(text, overrides=overrides)
    env = {"A": "a", "B": "=", "C": "c"}
    assert loaded.workers == Workers(threads=4, timeout=0.5, preload=True, env=env)
    assert loaded.http.trusted_proxies == ("unix",)
    assert (loaded.master.umask, loaded.master.user) == (0o27, 0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"overrides": [count("many")]}, '--workers: expected an integer from 1 to 1024 or "auto", got "many"'),
        ({"overrides": [count("0")]}, '--workers: expected an integer from 1 to 1024 or "auto", got 0'),
        ({"overrides": [count("-1")]}, '--workers: expected an integer from 1 to 1024 or "auto", got "-1"'),
        (
            {"overrides": [count("9" * 5000)]},
            f'--workers: expected an integer from 1 to 1024 or "auto", got "{"9" * 57}..."',
        ),
        ({"listen": ["x:99999"]}, '--listen: expected a port from 0 to 65535, got "x:99999"'),
        ({"listen": [":1", ":1"]}, "--listen: 0.0.0.0:1 is given twice"),
        ({"app": "app.py"}, 'APP: expected a module, not a file: write "app", got "app.py"'),
        ({"files": "nowhere"}, '--files: expected an existing directory, got "nowhere"'),
        ({"files": "public", "app": "a:b"}, "--files: expected no application beside it"),
        ({"listing": True}, "--listing: expected only beside --files"),
        (
            {"overrides": [Override("--umask", "master.umask", "99")]},
            '--umask: expected a umask such as "027" or 0o027, got "99"',
        ),
        (
            {"overrides": [Override("--env", "workers.env", {"PYTHONPATH": "x"})]},
            '--env: expected no PYTHONPATH, which Python has read already: write "pythonpath" beside "env"',
        ),
        (
            {"overrides": [Override("--max-body", "http.max_body", "16MB")]},
            f'--max-body: expected {size(0).expected}, got "16MB"',
        ),
        ({"app_dir": "nowhere"}, '--app-dir: expected an existing directory, got "nowhere"'),
    ],
)
def test_a_wrong_option_is_named(problems: Problems, options: dict[str, Any], problem: str) -> None:
    assert problems("", **options) == [problem]
