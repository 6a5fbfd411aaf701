"""Privileges: the master binds as root, and somebody else runs the applications. Owns the change of user, for good."""

from __future__ import annotations

import os
import pwd
import sys
from contextlib import suppress

from prefork.errors import StartError
from prefork.observe.log_file import Owner
from prefork.settings.schema import Master, Settings

ROOT = 0


def prepare(settings: Settings) -> str:
    """To be called before files are made: a warning, or "". Raises StartError where the workers cannot be the user."""
    master = settings.master
    if master.umask is not None:
        os.umask(master.umask)
    is_root = os.geteuid() == ROOT
    if not is_root and (master.user not in (None, os.geteuid()) or master.group not in (None, os.getegid())):
        key = "user" if master.user not in (None, os.geteuid()) else "group"
        raise StartError(f"master.{key}: only root can change the user or group, and this is {called(os.geteuid())}")
    if master.user is not None and master.group is None and _entry(master.user) is None:
        raise StartError(f'master.user: {master.user} is no user of this system, so "group" must be set, too')
    if is_root and master.user is None and any(route.app or route.wsgi or route.asgi for route in settings.routes):
        return 'applications run as root: name a "user" in [master] (--user), or name root there, if that is intended'
    return ""


def drop(master: Master) -> None:
    """Become the user and the group of the workers; root's supplementary groups go, those of the user come. Root's
    terminal stays behind.

    Nothing happens where none is named, or where we are no root, and are that user already.
    """
    if os.geteuid() != ROOT or (master.user is None and master.group is None):
        return
    if master.user not in (None, ROOT):
        _leave_terminal()
    user = ROOT if master.user is None else master.user
    entry = _entry(user)
    group = _group(master, entry)
    if entry is None:
        os.setgroups([group])
    else:
        os.initgroups(entry.pw_name, group)
        # where libraries look for their caches and settings, which root's home has not for anybody else
        os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    os.setgid(group)
    os.setuid(user)


def _leave_terminal() -> None:
    """Begin a session of our own, and keep of a terminal no more than the right to write to it.

    Whoever shares root's terminal can type for him (TIOCSTI, ioctl_tty(2)), and whoever can read from it gets what is
    typed, in the shell too. Ctrl-C and the like reach the master alone then, which tells its workers to stop; Ctrl-Z
    stops only the master, and its workers serve on.
    """
    with suppress(PermissionError):  # it is a session of our own
        os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    if os.isatty(0):
        os.dup2(nowhere, 0)
    for stream in filter(os.isatty, (1, 2)):
        try:
            path = f"/proc/self/fd/{stream}" if sys.platform == "linux" else os.ttyname(stream)
            writing = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        except OSError:  # it cannot be found by a name
            writing = os.dup(nowhere)
        os.dup2(writing, stream)
        os.close(writing)
    os.close(nowhere)


def owner_of_logs(master: Master) -> Owner | None:
    """Whose the log files must be, so that workers can open them anew; None where they are already."""
    if master.user is None or os.geteuid() != ROOT:
        return None
    entry = _entry(master.user)
    group = _group(master, entry)
    return Owner(master.user, frozenset(os.getgrouplist(entry.pw_name, group) if entry else [group]))


def _group(master: Master, entry: pwd.struct_passwd | None) -> int:
    """That of the workers, whose user has this entry."""
    return master.group if master.group is not None else entry.pw_gid if entry else os.getgid()


def _entry(user: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user)
    except KeyError:
        return None


def called(user: int) -> str:
    """A user by his name, if he has one."""
    entry = _entry(user)
    return entry.pw_name if entry else f"user {user}"
