"""The runtime directory: where a server without a configuration file has its pid file and its control socket. Owns the
choice of the directory, and the names in it.

Such a server is started in any directory, perhaps one that nothing can be written to, and beside other servers. So its
files are in a directory of its user, not in the current one, and are named after its addresses. The directory must be
one that this user alone may write to: another user could replace the files.
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

LONGEST_NAME = 40  # bytes
SHARED = stat.S_IWGRP | stat.S_IWOTH


class Place(NamedTuple):
    """The paths of a server's pid file and control socket, "" for none. Where no directory can be had, `problem` says
    why.
    """

    pid_file: str
    control: str
    problem: str = ""

    def given_to(self, settings: Settings, has_pid_file: bool) -> Settings:
        """The same settings with these two paths. The pid file of the settings stays where `has_pid_file`: then the
        command line names it.
        """
        pid_file = settings.master.pid_file if has_pid_file else self.pid_file
        master = structs.replace(settings.master, pid_file=pid_file, control=self.control)
        return structs.replace(settings, master=master)


def find_place(addresses: Sequence[Address]) -> Place:
    """A place for a server of these addresses, in the first runtime directory that can be had. Makes the directory."""
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
    """The paths of the control sockets in all runtime directories of this user. Some may be left by servers that have
    died.
    """
    found: list[str] = []
    for directory in _directories():
        with suppress(OSError):
            _check(directory)
            found += sorted(str(path) for path in Path(directory).glob("*.sock"))
    return list(dict.fromkeys(found))


def _directories() -> Iterator[str]:
    """The runtime directories of this user, the best first (XDG Base Directory Specification: XDG_RUNTIME_DIR). The
    parent of the last one is open to everybody, but sticky: only the owner of a directory can rename or remove it.
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
    """Raises OSError where this is not a directory that this user alone may write to. A link to one is refused, too."""
    if not _is_ours(os.lstat(directory)):
        raise OSError("not a directory that this user alone may write to")


def _is_ours(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & SHARED


def _name(addresses: Sequence[Address]) -> str:
    """A name that no other server of this user has at the same time. The addresses make it unique; where the kernel or
    a service manager chooses them, a random part does.
    """
    absolute = [os.path.abspath(each.path) if each.kind == "unix" else str(each) for each in addresses]
    name = "+".join(absolute).replace("/", "_")
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{os.path.basename(absolute[0])[:20]}-{sha256(os.fsencode(name)).hexdigest()[:12]}"
    if any(each.kind == "systemd" or (each.kind == "tcp" and not each.port) for each in addresses):
        name += f"-{secrets.token_hex(4)}"
    return name
