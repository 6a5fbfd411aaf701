"""Passed sockets: those that a service manager has bound and lends us (sd_listen_fds(3)). Owns the LISTEN_ variables.

`listen` says which of them are meant: "systemd" is all, "systemd:NAME" those of that FileDescriptorName=. Only the
service manager takes them down: it keeps them open, and clients wait in their queues while there is no server.
"""

from __future__ import annotations

import os
import re
import resource
import socket
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from prefork.errors import StartError
from prefork.net.listen import Sockets
from prefork.settings.address import Address
from prefork.settings.schema import Listener
from prefork.settings.wording import quoted

FIRST = 3  # SD_LISTEN_FDS_START
MOST_DESCRIPTORS = 1 << 20  # descriptors of a process, at most: Linux's default fs.nr_open
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True)
class Passed:
    """The `names` of all passed sockets, and the `sockets` themselves where this process is the one that got them."""

    sockets: Sockets = field(default_factory=dict)
    names: dict[Address, str] = field(default_factory=dict)

    def resolve(self, wanted: Sequence[Listener]) -> tuple[Listener, ...]:
        """`wanted`, with the addresses of passed sockets in place of "systemd". Raises StartError where a socket that
        is wanted is not passed, and where one that is passed is not wanted: its clients would wait for ever.
        """
        listeners: list[Listener] = []
        literal = {listener.address for listener in wanted}
        for listener in wanted:
            if listener.address.kind == "systemd":
                listeners += self._meant(listener, literal)
            else:
                listeners.append(listener)
        for address in self.names.keys() - {listener.address for listener in listeners}:
            name = self.names[address]
            raise StartError(
                f'the service manager passes a socket for {address} ("{name}"), which `listen` does not name; '
                f'write "systemd" for all sockets that it passes, or "systemd:{name}" for this one'
            )
        return tuple(listeners)

    def _meant(self, listener: Listener, taken: set[Address]) -> Iterator[Listener]:
        name = listener.address.path
        meant = [address for address in self.names if name in ("", self.names[address]) and address not in taken]
        if not meant:
            passes = ", ".join(f'"{name}"' for name in self.names.values()) or "none; is it started by a .socket unit?"
            raise StartError(f'listen: no socket for "{listener.address}"; the service manager passes {passes}')
        for address in meant:
            taken.add(address)
            yield structs.replace(listener, address=address)


def take(environment: MutableMapping[str, str]) -> Passed:
    """The sockets that are passed to this very process. Removes the variables, so no child takes the sockets for its
    own. Raises StartError.
    """
    count, pid, names = (environment.pop(variable, "") for variable in VARIABLES)
    if pid != str(os.getpid()) or not count:
        return Passed()
    passed, called = Passed(), names.split(":")
    for number in range(_number(count)):
        listener = _listener(FIRST + number)
        address = _address(FIRST + number, listener)
        passed.sockets[address] = listener
        name = called[number] if number < len(called) else ""
        passed.names[address] = name or "unknown"  # as sd_listen_fds_with_names does
    return passed


def _number(count: str) -> int:
    """How many descriptors are passed. Raises StartError for more than a process can have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = (MOST_DESCRIPTORS if limit == resource.RLIM_INFINITY else min(limit, MOST_DESCRIPTORS)) - FIRST
    if not re.fullmatch("[0-9]{1,9}", count) or int(count) > most:
        raise StartError(f"LISTEN_FDS: expected a number of descriptors, at most {most}, got {quoted(count)}")
    return int(count)


def _listener(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
        if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise StartError(f"LISTEN_FDS: descriptor {descriptor} is no listening stream socket")
        listener.setblocking(False)
        if listener.family != socket.AF_UNIX:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise StartError(f"LISTEN_FDS: descriptor {descriptor} is no socket: {error.strerror}") from None
    return listener


def _address(descriptor: int, listener: socket.socket) -> Address:
    where = listener.getsockname()
    if listener.family != socket.AF_UNIX:
        return Address("tcp", where[0], where[1])
    if isinstance(where, bytes) or not where:
        raise StartError(f"LISTEN_FDS: descriptor {descriptor} is an abstract unix socket; one with a path is needed")
    return Address("unix", path=where)
