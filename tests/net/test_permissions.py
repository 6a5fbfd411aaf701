"""Permissions of unix sockets: in force before the first client can come, changed by a reload, and undone with it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from prefork.errors import StartError
from prefork.net.listen import Sockets, bind_missing, release
from prefork.net.permissions import permit, usual_mode
from prefork.settings.address import Address
from prefork.settings.schema import Listener

ADDRESS = Address("unix", path="app.sock")
OTHER = 12345  # a user and a group that are not ours
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bound(listener: Listener) -> os.stat_result:
    """What the file is when the listener has been bound, by itself."""
    sockets = bind_missing({}, [listener])
    try:
        return os.stat("app.sock")
    finally:
        release(sockets, keep={})


def refused(listener: Listener) -> str:
    sockets: Sockets = {}
    with pytest.raises(StartError) as caught:
        sockets = bind_missing({}, [listener])
    assert sockets == {}
    assert os.listdir() == []
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0])
def test_the_mode_is_the_one_that_is_wanted_whatever_the_umask(mode: int) -> None:
    before = os.umask(0o027)
    try:
        assert stat.S_IMODE(bound(Listener(address=ADDRESS, mode=mode)).st_mode) == mode
        assert stat.S_IMODE(bound(Listener(address=ADDRESS)).st_mode) == 0o666
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_the_mode_is_in_force_when_the_file_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(os, "chown", lambda path, *ids: made.append(stat.S_IMODE(os.stat(path).st_mode)))
    bound(Listener(address=ADDRESS, mode=0o600))
    assert made == [0o600]


@is_root
def test_the_file_belongs_to_whom_it_is_given() -> None:
    made = bound(Listener(address=ADDRESS, owner=OTHER, group=OTHER + 1))
    assert (made.st_uid, made.st_gid) == (OTHER, OTHER + 1)
    made = bound(Listener(address=ADDRESS, group=OTHER))
    assert (made.st_uid, made.st_gid) == (os.geteuid(), OTHER)


def test_who_may_not_give_it_away_is_told_so_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    told = refused(Listener(address=ADDRESS, owner=OTHER))
    assert told == (
        "cannot give unix:app.sock to its owner and group: no permission; that takes root, or a group that you are in"
    )


def test_a_change_is_made_to_the_socket_that_stays_and_can_be_undone() -> None:
    sockets = bind_missing({}, [Listener(address=ADDRESS, mode=0o600)])
    undo = permit(Listener(address=ADDRESS, mode=0o666), sockets[ADDRESS])
    assert stat.S_IMODE(os.stat("app.sock").st_mode) == 0o666
    undo()
    assert stat.S_IMODE(os.stat("app.sock").st_mode) == 0o600
    os.rename("app.sock", "elsewhere")
    with pytest.raises(StartError, match="No such file"):
        permit(Listener(address=ADDRESS, mode=0o666), sockets[ADDRESS])
    permit(Listener(address=ADDRESS), sockets[ADDRESS])()
    os.rename("elsewhere", "app.sock")
    release(sockets, keep={})
    undo()  # though it is gone


@pytest.mark.parametrize("other", ["link", "hard link", "file", "socket"])
def test_nothing_happens_to_what_has_taken_its_place(other: str) -> None:
    wanted = Listener(address=ADDRESS, mode=0o600, owner=os.geteuid())
    sockets = bind_missing({}, [wanted])
    os.close(os.open("secret", os.O_CREAT, 0o640))
    undo = permit(Listener(address=ADDRESS, mode=0o666), sockets[ADDRESS])
    os.rename("app.sock", "moved.sock")
    if other == "link":
        os.symlink("secret", "app.sock")
    elif other == "hard link":
        os.link("secret", "app.sock")
    elif other == "file":
        os.rename("secret", "app.sock")
    else:
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind("app.sock")
    before = os.stat("app.sock")
    with pytest.raises(StartError, match=r"cannot set the permissions of unix:app\.sock: another file has taken its"):
        permit(wanted, sockets[ADDRESS])
    undo()
    release(sockets, keep={})
    after = os.stat("app.sock")
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    assert os.path.exists("moved.sock")


def test_a_socket_that_others_have_bound_keeps_its_permissions() -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind("app.sock")
        before = os.stat("app.sock").st_mode
        theirs.listen()
        sockets = bind_missing({ADDRESS: theirs}, [Listener(address=ADDRESS)])
        permit(Listener(address=ADDRESS, mode=0o600), sockets[ADDRESS])()
        assert os.stat("app.sock").st_mode == before


def test_a_umask_that_the_operator_has_named_counts_where_no_mode_is() -> None:
    assert [oct(usual_mode(umask)) for umask in (None, 0o007, 0o077)] == ["0o666", "0o660", "0o600"]
