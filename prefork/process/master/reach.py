"""Reach: the server that a command means. Owns the search for its control socket, even where its configuration file has
been broken since its start.

With a configuration file, a command means the server of that file. Without one, it means the server of CONFIG, if that
runs; else a server without a file that was started in this directory. The directory may be anybody's. So a command
reads only regular files there of its own accord: it would wait for ever at a FIFO, and a device has no end.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from prefork.errors import ConfigError, StartError
from prefork.process.master import control
from prefork.process.master.configuration import read
from prefork.process.master.runtime_directory import control_sockets
from prefork.settings.schema import Master

CONFIG = "config/server.toml"
USUAL = Master()  # the paths of a server whose configuration names none
MISSING = "is it running, was it started in this directory, with this config?"
SIGNALS = "HUP reloads, TERM stops, USR1 reopens the logs, USR2 upgrades"


class Told(NamedTuple):
    """The paths that a configuration file names for its master, even where the file is broken. None: it names none."""

    pid_file: str | None = None
    control: str | None = None

    @property
    def socket(self) -> str:
        """The control socket of the file's server, "" for none."""
        return USUAL.control if self.control is None else self.control


class Itself(msgspec.Struct):
    """The part of a master's status by which a command tells it from others."""

    pid: int
    config: str
    directory: str
    listen: list[str]
    serving: list[str]


class Reached(NamedTuple):
    """The control socket to ask, and a note for the user about the choice, "" for none."""

    control: str
    note: str = ""


def find(config: str | None, addresses: Sequence[str]) -> Reached:
    """The server of the file `config`, or without one, the server of this directory. `addresses` limit the choice to
    servers without a file that serve all of them.

    Raises ConfigError where the file is missing, and StartError where no server answers or several may be meant. Where
    the file cannot be used, the StartError has its `problems`.
    """
    if config is not None:
        return Reached(_of_file(config))
    told = None if addresses or not os.path.isfile(CONFIG) else _tell(CONFIG)
    if told is not None and _answers(told):
        return Reached(told.socket)
    note = f"no prefork answers at {told.socket} ({CONFIG}); asking the one at " if told and told.socket else ""
    if not addresses and _runs_by(USUAL.control) in ("", CONFIG):  # started before the file was made or changed
        return Reached(USUAL.control, note and note + USUAL.control)
    servers = _without_file(addresses)
    if len(servers) > 1:
        listed = "; ".join(f"{' '.join(master.serving)} (pid {master.pid})" for master in servers.values())
        raise StartError(f"{len(servers)} servers run here without a file: {listed}; name one by --listen ADDRESS")
    for path in servers:
        return Reached(path, note and note + path)
    if told is not None:
        return Reached(_of_file(CONFIG))
    if addresses:
        raise StartError(f"none of your servers that run without a file answers for {', '.join(addresses)}")
    raise StartError(f"no prefork answers at {USUAL.control}, and none was started here without a file: is it running?")


def _of_file(config: str) -> str:
    told = _tell(config)
    if told is None:
        if _runs_by(USUAL.control) != config:
            raise ConfigError(f"{config}: no such file")
        return USUAL.control
    if _answers(told):
        return told.socket
    problems = _problems(config)
    if not told.socket:
        missing = f'{config} says control = "", so no command reaches its server, but signals do: {SIGNALS}'
    else:
        missing = f"no prefork answers at {told.socket}: {MISSING}"
        if problems and told.control is None:
            missing += " The file, as it is, names no other socket"
    raise StartError(missing + _master_by(told), problems)


def _answers(told: Told) -> bool:
    return bool(told.socket) and control.answers(told.socket)


def _problems(config: str) -> Sequence[str]:
    try:
        read(config)
    except ConfigError as error:
        return error.problems
    return ()


def _tell(config: str) -> Told | None:
    """The paths that can be read from the file; None where there is no file."""
    try:
        text = Path(config).read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Told()
    try:
        master = tomllib.loads(text)["master"]
        told = [master.get(key) for key in Told._fields]
    except (KeyError, AttributeError):  # the file has no table [master]
        return Told()
    except (ValueError, RecursionError):
        lines = (re.search(rf"""^\s*(?:master\.)?{key}\s*=\s*(["'])(.*?)\1""", text, re.M) for key in Told._fields)
        told = [line and line[2] for line in lines]
    return Told(*(value if isinstance(value, str) else None for value in told))


def _master_by(told: Told) -> str:
    """A hint, in brackets, at the master that the pid file names; "" where that is no prefork."""
    path = USUAL.pid_file if told.pid_file is None else told.pid_file
    with suppress(OSError, ValueError, psutil.Error):
        pid = int(Path(path).read_bytes()) if os.path.isfile(path) else 0
        if "prefork" in " ".join(psutil.Process(pid).cmdline()):
            return f" ({path} names the master {pid}, which signals reach: {SIGNALS})"
    return ""


def _runs_by(path: str) -> str | None:
    """The configuration file of the master at `path`, "" where it has none; None where no master answers."""
    try:
        return _master(path).config
    except StartError:
        return None


def _master(path: str) -> Itself:
    """The master at `path`. Raises StartError where nobody answers, or no master."""
    reply, connection = control.ask(path, {"command": "status"})
    connection.close()
    try:
        return msgspec.convert(reply.get("master"), Itself)
    except msgspec.ValidationError as error:
        problem = f"sends a malformed answer; is it another version of prefork? ({error})"
        raise StartError(f"the master at {path} {problem}") from None


def _without_file(addresses: Sequence[str]) -> dict[str, Itself]:
    """The masters that run without a file and serve all `addresses`, by their control sockets. Where any of them was
    started in this directory, or where no address is given, only those started here. Raises StartError where none is
    left and one does not answer.
    """
    found, mute = {}, []
    for path in filter(control.answers, control_sockets()):
        try:
            master = _master(path)
        except StartError as error:
            mute.append(error)
            continue
        if not master.config and set(addresses) <= {*master.listen, *master.serving}:
            found[path] = master
    here = {path: master for path, master in found.items() if _is_here(master.directory)}
    found = here if here or not addresses else found
    if mute and not found:
        raise mute[0]
    return found


def _is_here(directory: str) -> bool:
    with suppress(OSError):
        return os.path.samefile(directory, os.curdir)
    return False
