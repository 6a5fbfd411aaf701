"""The runtime directory: whose it is, and what a server is called in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from prefork.process.master.runtime_directory import Place, control_sockets, find_place
from prefork.settings.address import Address

ONE = [Address("tcp", "127.0.0.1", 8000)]


OTHERS = [Path("/run/prefork"), Path(f"/run/user/{os.geteuid()}/prefork"), Path(f"/tmp/prefork-{os.geteuid()}")]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A session's runtime directory, with a short name; those that are made in its place go as well."""
    missing = [other for other in OTHERS if not other.exists()]
    monkeypatch.chdir(tmp_path)
    path = Path(os.environ["XDG_RUNTIME_DIR"]) / "x"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    for other in missing:
        with suppress(OSError):  # it was not made, or is in use
            other.rmdir()
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            entry.rmdir()
        else:
            entry.unlink()
    path.rmdir()


def test_it_is_made_in_the_directory_of_the_session_for_its_user_alone(session: Path) -> None:
    assert find_place(ONE) == Place(f"{session}/prefork/127.0.0.1:8000.pid", f"{session}/prefork/127.0.0.1:8000.sock")
    assert (session / "prefork").stat().st_mode & 0o777 == 0o700


def test_what_is_ours_is_used_again(session: Path) -> None:
    assert find_place(ONE) == find_place(ONE)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_one_that_others_may_write_to_is_not_used(session: Path, mode: int) -> None:
    (session / "prefork").mkdir()
    (session / "prefork").chmod(mode)
    assert not find_place(ONE).control.startswith(str(session))
    (session / "prefork").rmdir()
    session.chmod(mode)
    assert not find_place(ONE).control.startswith(str(session))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_one_of_somebody_else_is_not_used(session: Path) -> None:
    (session / "prefork").mkdir()
    os.chown(session / "prefork", 65534, 65534)
    assert not find_place(ONE).control.startswith(str(session))
    (session / "prefork").rmdir()
    os.chown(session, 65534, 65534)
    assert not find_place(ONE).control.startswith(str(session))


def test_no_link_is_followed(session: Path, tmp_path: Path) -> None:
    (session / "prefork").symlink_to(tmp_path)
    assert not find_place(ONE).control.startswith(str(session))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told", ["", "relative", "/nowhere/at/all"])
def test_without_a_session_there_is_another(session: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", told)
    assert Path(find_place(ONE).control).parent in OTHERS


def test_a_session_whose_name_is_too_long_for_a_socket_is_passed_over(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = session / ("d" * 60)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert not find_place(ONE).control.startswith(str(session))
    assert list(deep.iterdir()) == []


def test_the_same_addresses_are_the_same_name_and_others_are_another(session: Path) -> None:
    other = [*ONE, Address("unix", path="app.sock")]
    assert find_place(other) == find_place(other)
    assert len({find_place(ONE), find_place(other), find_place([Address("unix", path="app.sock")])}) == 3


@pytest.mark.parametrize("address", [Address("tcp", "127.0.0.1", 0), Address("systemd")])
def test_where_others_choose_the_address_each_server_has_a_name_of_its_own(session: Path, address: Address) -> None:
    assert find_place([address]) != find_place([address])


def test_a_unix_socket_is_called_by_where_it_is_and_not_by_where_we_are(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_from_here = find_place([Address("unix", path="app.sock")])
    assert find_place([Address("unix", path=str(tmp_path / "app.sock"))]) == seen_from_here
    monkeypatch.chdir("/")
    assert find_place([Address("unix", path="app.sock")]) != seen_from_here


def test_many_addresses_make_no_long_name(session: Path) -> None:
    many = [Address("tcp", "127.0.0.1", port) for port in range(8000, 8100)]
    assert len(find_place(many).control) <= 100
    assert find_place(many) != find_place(many[:-1])


def test_all_servers_of_the_user_are_found(session: Path) -> None:
    control = find_place(ONE).control
    assert control not in control_sockets()
    Path(control).touch()
    assert control in control_sockets()
    Path(control).unlink()
