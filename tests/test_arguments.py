"""The command line: what is accepted, as other servers call it too, and what is said of the rest."""

from __future__ import annotations

from argparse import Namespace

import pytest

from prefork.arguments import KEYS, parse
from prefork.settings.overrides import Override

Output = pytest.CaptureFixture[str]


def mistaken(arguments: list[str], capsys: Output) -> str:
    """What is said of a command line that makes no sense, less the line of its usage."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    usage, said = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: prefork ")
    assert said.endswith(" --help` tells more")
    return said


def put(*arguments: str) -> list[tuple[str, object]]:
    """The keys that the options of a start take the place of."""
    return [(one.key, one.value) for one in parse(["start", "myapp:app", *arguments]).overrides]


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "myapp:app", "--listen", ":80"],
        ["myapp:app", "-b", ":80"],
        ["-b", ":80", "myapp:app"],
        ["--bind=:80", "myapp:app"],
    ],
)
def test_an_application_alone_means_its_start(arguments: list[str]) -> None:
    options = parse(arguments)
    assert (options.command, options.app, options.listen) == ("start", "myapp:app", [":80"])


@pytest.mark.parametrize(
    ("arguments", "listen"),
    [
        (["--host", "0.0.0.0"], ["0.0.0.0:8000"]),
        (["--port", "80"], ["127.0.0.1:80"]),
        (["--host", "::1", "--port", "80"], ["[::1]:80"]),
        (["--host", "[::1]", "--port", "0"], ["[::1]:0"]),
        (["--uds", "app.sock"], ["unix:app.sock"]),
        (["-b", ":1", "-b", ":2", "--port", "3"], [":1", ":2", "127.0.0.1:3"]),
        ([], []),
    ],
)
def test_an_address_may_be_given_in_parts(arguments: list[str], listen: list[str]) -> None:
    assert parse(["myapp:app", *arguments]).listen == listen


@pytest.mark.parametrize("port", ["http", "65536", "-1", ""])
def test_a_port_is_a_number(port: str, capsys: Output) -> None:
    assert f'--port: expected a port from 0 to 65535, got "{port}"' in mistaken(["a:b", f"--port={port}"], capsys)


def test_an_address_of_a_running_server_is_compared_in_one_form(capsys: Output) -> None:
    assert parse(["stop", "-b", ":80"]).listen == ["0.0.0.0:80"]
    assert "--listen: expected a port" in mistaken(["stop", "-b", ":x"], capsys)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["-w", "4"], "workers.count", "4"),
        (["--threads=4"], "workers.threads", "4"),
        (["-t", "60"], "workers.timeout", "60"),
        (["--timeout-graceful-shutdown", "5"], "workers.graceful_timeout", "5"),
        (["--limit-max-requests", "100"], "workers.max_requests", "100"),
        (["--preload"], "workers.preload", True),
        (["--keep-alive", "5"], "http.keepalive_timeout", "5"),
        (["--log-level", "debug"], "log.level", "debug"),
        (["--access-logfile", ""], "log.access", ""),
        (["-e", "A=b=c", "--env", "D="], "workers.env", {"A": "b=c", "D": ""}),
        (["--forwarded-allow-ips", "10.0.0.1, unix"], "http.trusted_proxies", ["10.0.0.1", "unix"]),
    ],
)
def test_options_of_one_meaning_stand_for_a_key(arguments: list[str], key: str, value: object) -> None:
    assert put(*arguments) == [(key, value)]


def test_an_option_is_called_by_its_first_name_in_errors() -> None:
    assert parse(["a:b", "-w", "1"]).overrides == [Override("--workers", "workers.count", "1")]


@pytest.mark.parametrize("place", KEYS)
def test_every_key_has_an_option_in_the_help(place: str, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        parse(["start", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"({place})" in told
    assert all(name in told for name in KEYS[place])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["myapp:app", "--reload"], "--reload: here it is --watch"),
        (["start", "--reload", "myapp:app"], "--reload: here it is --watch"),
        (["myapp:app", "-k", "gevent"], "-k: not needed"),
        (["myapp:app", "-kgevent"], "-kgevent: not needed"),
        (["--worker-class", "gevent", "myapp:app"], "--worker-class: not needed"),
        (["myapp:create_app", "--factory"], '--factory: write the call into APP: "module:create_app()"'),
        (["myapp:app", "--ssl-keyfile=key.pem"], "--ssl-keyfile: there is no TLS here yet"),
        (["myapp:app", "--certfile", "a.pem"], "--certfile: there is no TLS here yet"),
        (["myapp:app", "--proxy-headers"], "--proxy-headers: name your proxies: --forwarded-allow-ips"),
        (["myapp:app", "-p", "8000"], "-p: write --port for the port, --pid for the pid file"),
        (["myapp:app", "--root-path", "/api"], "--root-path: write a route into a file"),
        (["myapp:app", "--relaod"], "--relaod: unknown option (did you mean --reload, but here it is --watch?)"),
        (["myapp:app", "--worker", "3"], "--worker: unknown option (did you mean --workers?)"),
        (["myapp:app", "--ws-max-size", "1"], "--ws-max-size: write it under [websocket] into a file"),
        (["myapp:app", "--preload-app"], "--preload-app: here it is --preload"),
        (["myapp:app", "--name", "site"], "--name: not needed"),
        (["myapp:app", "--capture-output"], "--capture-output: not needed"),
        (["myapp:app", "--spew"], "--spew: unknown option; "),
        (["stop", "--reload"], "--reload: unknown option"),
    ],
)
def test_what_is_called_otherwise_here_is_answered_by_the_word(arguments: list[str], word: str, capsys: Output) -> None:
    assert f": {word}" in mistaken(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a command is missing: start, check, "),
        (["strat"], '"strat": no command (did you mean start?)'),
        (["restart"], '"restart": no command (did you mean reload?)'),
        (["myapp"], '"myapp": no command (an application has a colon, as in myapp:app)'),
        (["myproject.wsgi"], '"myproject.wsgi": no command (an application has a colon, as in myproject.wsgi:app)'),
        (["./mine.py"], '"./mine.py": no command (an application has a colon, as in mine:app)'),
        (["file-server"], '"file-server": no command (an application has a colon, as in myapp:app)'),
        (["/"], '"/": no command (a directory is served by --files /)'),
        (["help", "me"], '"me": no command'),
        (["start", ""], 'APP: expected a value, got ""; is a variable empty?'),
        (["start", "-c", ""], '--config: expected a value, got ""; is a variable empty?'),
        (["status", "-c", ""], '--config: expected a value, got ""; is a variable empty?'),
        (["a:b", "--host", "", "--port", "80"], '--host: expected a value, got ""; is a variable empty?'),
        (["a:b", "--app-dir="], '--app-dir: expected a value, got ""; is a variable empty?'),
        (["start", "--files="], '--files: expected a value, got ""; is a variable empty?'),
        (["start", "a:b", "--listen"], "--listen: a value is missing"),
        (["start", "a:b", "-w"], "--workers: a value is missing"),
        (["start", "a:b", "--watch=x"], "--watch: expected no value, got 'x'"),
        (["start", "a:b", "-e", "A"], '--env: expected NAME=VALUE, got "A"'),
        (["start", "a:b", "c:d"], '"c:d": unexpected argument'),
        (["scale"], "N is missing"),
        (["scale", "many"], 'N: expected an integer from 1 to 1024, got "many"'),
        (["status", "now"], '"now": unexpected argument'),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(arguments: list[str], said: str, capsys: Output) -> None:
    assert f": {said}" in mistaken(arguments, capsys)


@pytest.mark.parametrize("arguments", [["-V"], ["--version"], ["-v"], ["version"]])
def test_the_version_has_the_usual_options(arguments: list[str]) -> None:
    assert parse(arguments) == Namespace(command="version")


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["--help"], "usage: prefork COMMAND"),
        (["help"], "usage: prefork COMMAND"),
        (["help", "scale"], "usage: prefork scale"),
        (["stop", "-h"], "usage: prefork stop"),
    ],
)
def test_help_comes_as_a_command_and_as_an_option(arguments: list[str], usage: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(usage)
