"""The runtime directory: where a server that runs by no file has its pid file and its control socket.

Such a server is started wherever its user happens to be, perhaps where nothing can be written, and beside others. So
its directory is the user's, not the working one, and what it has there is named after its addresses. Only a directory
that is ours alone to write to is used, as whoever else could write there could put other files in the place of ours.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from prefork.settings.address import Address
from prefork.settings.kinds import LONGEST_SOCKET_PATH
from prefork.settings.schema import Settings

LONGEST_NAME = 40  # characters
SHARED = stat.S_IWGRP | stat.S_IWOTH


class Place(NamedTuple):
    """The pid file and the control socket of a server, each "" where it has none; then `problem` says why."""

    pid_file: str
    control: str
    problem: str = ""

    def given_to(self, settings: Settings, has_pid_file: bool) -> Settings:
        """The same settings with these two; where the command line names a pid file, that one stays."""
        pid_file = settings.master.pid_file if has_pid_file else self.pid_file
        master = structs.replace(settings.master, pid_file=pid_file, control=self.control)
        return structs.replace(settings, master=master)


def find_place(addresses: Sequence[Address]) -> Place:
    """A place for a server of these addresses, in the first runtime directory that can be had."""
    name, problems = _name(addresses), []
    for directory in _directories():
        control = os.path.join(directory, f"{name}.sock")
        try:
            if len(os.fsencode(control)) > LONGEST_SOCKET_PATH:
                raise OSError("its name is too long for a socket in it")
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            _check(directory)
        except OSError as error:
            problems.append(f"{directory}: {(error.strerror or str(error)).lower()}")
        else:
            return Place(os.path.join(directory, f"{name}.pid"), control)
    return Place("", "", "; ".join(problems))


def control_sockets() -> list[str]:
    """Those of all servers of this user that run by no file, and of some that are gone."""
    found: list[str] = []
    for directory in _directories():
        with suppress(OSError):
            _check(directory)
            found += sorted(str(path) for path in Path(directory).glob("*.sock"))
    return list(dict.fromkeys(found))


def _directories() -> Iterator[str]:
    """Where it may be, the best first (XDG Base Directory Specification: XDG_RUNTIME_DIR). The parent of the last is
    everybody's, but lets none rename or remove a directory save its owner.
    """
    user = os.geteuid()
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    for parent in filter(os.path.isabs, (session, "/run" if user == 0 else f"/run/user/{user}")):
        with suppress(OSError):
            if _is_ours(os.stat(parent)):
                yield os.path.join(parent, "prefork")
    with suppress(OSError):
        if os.stat("/tmp").st_mode & stat.S_ISVTX:
            yield f"/tmp/prefork-{user}"


def _check(directory: str) -> None:
    """Raises OSError where it is not a directory that we alone may write to; a link is none."""
    if not _is_ours(os.lstat(directory)):
        raise OSError("not a directory that this user alone may write to")


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & SHARED


def _name(addresses: Sequence[Address]) -> str:
    """What no other server is called at the same time: its addresses tell it apart, unless others choose its ports."""
    absolute = [os.path.abspath(each.path) if each.kind == "unix" else str(each) for each in addresses]
    name = "+".join(absolute).replace("/", "_")
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{os.path.basename(absolute[0])[:20]}-{sha256(os.fsencode(name)).hexdigest()[:12]}"
    if any(each.kind == "systemd" or (each.kind == "tcp" and not each.port) for each in addresses):
        name += f"-{secrets.token_hex(4)}"
    return name
