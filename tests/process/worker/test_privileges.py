"""Privileges: who may become whom, and who must not run applications."""

from __future__ import annotations

import os

import pytest

from prefork.errors import StartError
from prefork.process.worker import privileges
from prefork.settings.schema import Master, Route, Settings

APPLICATION = (Route(wsgi="app:app"),)
FIXED = (Route(status=True),)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    return monkeypatch


def settings(routes: tuple[Route, ...] = APPLICATION, **master: int) -> Settings:
    return Settings(routes=routes, master=Master(**master))


def test_who_is_not_root_can_only_stay_who_he_is(become: pytest.MonkeyPatch) -> None:
    become.setattr(os, "geteuid", lambda: 1000)
    assert privileges.prepare(settings()) == ""
    assert privileges.prepare(settings(user=1000, group=1000)) == ""
    with pytest.raises(StartError, match=r"^master.user: only root can change the user or group, and this is "):
        privileges.prepare(settings(user=33))
    with pytest.raises(StartError, match=r"^master.group: only root"):
        privileges.prepare(settings(user=1000, group=33))
    privileges.drop(Master(user=1000, group=1000))


def test_applications_as_root_are_warned_of_unless_that_is_said(become: pytest.MonkeyPatch) -> None:
    become.setattr(os, "geteuid", lambda: 0)
    assert 'name a "user" in [master] (--user)' in privileges.prepare(settings())
    assert privileges.prepare(settings(FIXED)) == ""
    assert privileges.prepare(settings(user=0)) == ""
    assert privileges.prepare(settings(user=1)) == ""


def test_a_number_that_is_no_user_needs_a_group(become: pytest.MonkeyPatch) -> None:
    become.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StartError, match=r'^master.user: 424242 is no user of this system, so "group"'):
        privileges.prepare(settings(user=424242))
    assert privileges.prepare(settings(user=424242, group=7)) == ""
