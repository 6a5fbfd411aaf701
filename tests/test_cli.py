"""The commands that need no server, and what a command line that makes no sense comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefork import __version__
from prefork.cli import main
from prefork.settings.wording import counted

ROOT = Path(__file__).parents[1]
GOOD = 'listen = ["127.0.0.1:8000", "[::1]:8000"]\n[[route]]\npath = "/"\nrespond = { body = "hello" }\n'


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Output = pytest.CaptureFixture[str]


def test_version(capsys: Output) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr() == (f"prefork {__version__}\n", "")


def test_check_says_what_is_good(directory: Path, capsys: Output) -> None:
    (directory / "server.toml").write_text(GOOD)
    assert main(["check", "-c", "server.toml"]) == 0
    assert capsys.readouterr() == ("server.toml: good; 1 route, 2 addresses\n", "")


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "route", "0 routes"), (1, "route", "1 route"), (1, "address", "1 address"), (2, "address", "2 addresses")],
)
def test_what_is_counted_has_its_plural(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said


def test_check_says_all_that_is_wrong_a_line_each(directory: Path, capsys: Output) -> None:
    (directory / "server.toml").write_text(
        "lisetn = 1\n[workers]\ncount = 0\n[log]\nlevel = 3\n" + GOOD[GOOD.index("[[") :]
    )
    assert main(["check", "-c", "server.toml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == ["lisetn", "workers.count", "log.level"]


@pytest.mark.parametrize(
    ("text", "names"),
    [('[log]\nformat = "$nonsense"\n', "log.format"), ('[workers]\nevent_loop = "x"\n', "event_loop")],
)
def test_check_finds_what_a_start_would_stumble_over(directory: Path, text: str, names: str, capsys: Output) -> None:
    (directory / "server.toml").write_text(text + GOOD[GOOD.index("[[") :])
    assert main(["check", "-c", "server.toml"]) == 2
    assert names in capsys.readouterr().err


def test_check_without_a_file_names_the_one_it_looked_for(capsys: Output) -> None:
    assert main(["check"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("config/server.toml: no such file")


def test_the_configuration_that_comes_with_the_project_is_good(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["check"]) == 0
    assert capsys.readouterr().out.startswith("config/server.toml: good; ")


def test_schema_is_json_and_knows_every_table(capsys: Output) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"listen", "master", "workers", "http", "log", "route"} <= schema["properties"].keys()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["start", "app:app", "--workers", "0"], "--workers"),
        (["start", "app:app", "--workers", "many"], "--workers"),
        (["start", "app:app", "--workers", "-1"], "--workers"),
        (["start", "app:app", "--listen", "nowhere"], "--listen"),
        (["start", "app:app", "--listen", "127.0.0.1:99999"], "--listen"),
        (["start", "app:app", "--listen", ":1", "--listen", "0.0.0.0:1"], "--listen"),
        (["start", "no target"], "APP"),
        (["start", "app.py"], "APP"),
        (["start", "--files", "nowhere"], "--files"),
        (["start", "app:app", "--files", "."], "--files"),
        (["start", "app:app", "--listing"], "--listing"),
        (["start", "app:app", "--app-dir", "nowhere"], "--app-dir"),
        (["start", "app:app", "--watch-dir", "nowhere"], "--watch-dir"),
        (["start", "app:app", "--watch", "--app-dir", "nowhere"], "--app-dir"),
        (["start"], "config/server.toml: no such file"),
        (["start", "app:app", "-c", "missing.toml"], "missing.toml: no such file"),
    ],
)
def test_a_start_that_makes_no_sense_is_a_config_error_of_one_line(
    directory: Path, arguments: list[str], names: str, capsys: Output
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert names in err
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"listen = [", "line 1"),
        (b"listne = 1\n" + GOOD.encode(), "listne"),
        (b"", "route"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[log]\nformat = '$nonsense'\n" + GOOD[GOOD.index("[[") :].encode(), "log.format"),
    ],
)
def test_start_and_check_agree_on_what_is_wrong(directory: Path, text: bytes, names: str, capsys: Output) -> None:
    (directory / "server.toml").write_bytes(text)
    said = []
    for command in ("start", "check"):
        assert main([command, "-c", "server.toml"]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert names in said[0]
    assert said[0].startswith("server.toml: ")
    assert [entry.name for entry in directory.iterdir()] == ["server.toml"]


@pytest.mark.parametrize("arguments", [[], ["restart"], ["start", "a:b", "c:d"], ["status", "--yaml"], ["stop", "x"]])
def test_what_is_no_command_is_a_usage_error(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: prefork" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["start", "check", "schema", "reload", "stop", "reopen", "status", "version"])
def test_every_command_has_a_help(name: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: prefork {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (GOOD, "run/prefork.sock"),
        ("[master]\ncontrol = 'own.sock'\n" + GOOD[GOOD.index("[[") :], "own.sock"),
        ("[master]\ncontrol = 'own.sock'\nbroken = [", "own.sock"),
        ('[master]\n  control="own.sock" # here\n[broken', "own.sock"),
        ("[broken", "run/prefork.sock"),
        ("[master]\ncontrol = 7\n", "run/prefork.sock"),
        ("master = 7\n", "run/prefork.sock"),
        ("\x00", "run/prefork.sock"),
    ],
)
def test_commands_ask_where_the_config_says_broken_or_not(
    directory: Path, text: str, asked: str, capsys: Output
) -> None:
    (directory / "server.toml").write_text(text)
    assert main(["status", "-c", "server.toml"]) == 1
    assert f"no prefork answers at {asked}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"", "route: expected at least one [[route]]"),
        (b"workers:\n  count: 2\n", "line 1: expected '='"),
        (b"[master]\n# caf\xe9\n", "line 2: expected UTF-8, got the byte 0xe9"),
        (b"[wokers]\n" + GOOD[GOOD.index("[[") :].encode(), 'wokers: unknown key (did you mean "workers"?)'),
    ],
)
@pytest.mark.parametrize("command", ["status", "reload", "stop"])
def test_what_is_wrong_with_the_file_comes_before_that_nobody_answers(
    directory: Path, command: str, text: bytes, wrong: str, capsys: Output
) -> None:
    (directory / "server.toml").write_bytes(text)
    assert main([command, "-c", "server.toml"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"server.toml: {wrong}")
    assert last.startswith("prefork: no prefork answers at run/prefork.sock: ")


def test_a_directory_in_the_place_of_the_file_is_told_as_that(directory: Path, capsys: Output) -> None:
    assert main(["status", "-c", str(directory)]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"{directory}: cannot be read: is a directory"
    assert "no prefork answers at run/prefork.sock" in last


def test_a_server_without_a_control_socket_is_reached_by_signals_it_is_said(directory: Path, capsys: Output) -> None:
    (directory / "server.toml").write_text("[master]\ncontrol = ''\n" + GOOD[GOOD.index("[[") :])
    assert main(["reload", "-c", "server.toml"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert 'server.toml says control = ""' in said
    assert "HUP reloads" in said
