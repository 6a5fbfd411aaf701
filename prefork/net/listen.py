"""Listeners: binds addresses, keeps them over reloads, takes them down again. Owns the listening sockets."""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from prefork.errors import StartError
from prefork.logger import log
from prefork.net import file_paths, permissions, socket_file
from prefork.settings.address import Address
from prefork.settings.schema import Listener

Sockets = dict[Address, socket.socket]


_SO_ATTACH_FILTER = 26 if sys.platform == "linux" else -1  # Python has no name for it
_INSTRUCTION = "HBBI"  # code, jump if true, jump if false, operand (linux/filter.h)
_DROP_SYN = array("B")  # a packet filter
_DROP_SYN.frombytes(struct.pack(_INSTRUCTION, 0x30, 0, 0, 13))  # load TCP's flags
_DROP_SYN.frombytes(struct.pack(_INSTRUCTION, 0x54, 0, 0, 0x12))  # of them, keep SYN and ACK
_DROP_SYN.frombytes(struct.pack(_INSTRUCTION, 0x15, 0, 1, 0x02))  # unless that is SYN alone, skip the next
_DROP_SYN.frombytes(struct.pack(_INSTRUCTION, 0x06, 0, 0, 0))  # drop the packet
_DROP_SYN.frombytes(struct.pack(_INSTRUCTION, 0x06, 0, 0, 0xFFFFFFFF))  # take all of it


def bind_missing(
    current: Sockets, wanted: Sequence[Listener], workers: int = 1, mode: int = permissions.EVERYBODY
) -> Sockets:
    """The sockets for `wanted`: those of `current` that are still wanted, the others bound anew. `mode` is for the
    files of unix sockets whose listeners name none.

    With reuse_port there is one socket for each of `workers`, and more where there were more: a client that waits in a
    queue must not lose it. New ones among these take no clients before `begin`, as no worker is there to accept them
    yet. Nothing changes about a socket that is kept before `begin`, either. Raises StartError when one cannot be bound,
    with nothing new bound and `current` as it was.
    """
    sockets: Sockets = {}
    kept = {listener.address for listener in wanted}
    leaving = {address: listener for address, listener in current.items() if address.numbered(0) not in kept}
    try:
        for listener in wanted:
            if listener.reuse_port:
                _bind_group(listener.address, current, leaving, sockets, workers)
            else:
                address = listener.address
                known = current.get(address) or current.get(address.numbered(1)) or _by_path(address, current)
                if known is not None and known.family == socket.AF_UNIX and is_shut(known):
                    known = None  # a TCP socket listens again when it is told to; this kind never does
                sockets[address] = known or _open(listener, leaving, mode)
    except StartError:
        release(sockets, keep=current)
        raise
    return sockets


def _by_path(address: Address, current: Sockets) -> socket.socket | None:
    """The one of `current` that is bound to the same unix path, written in another way."""
    if address.kind == "unix":
        path = file_paths.absolute(address.path)
        for other, listener in current.items():
            if other.kind == "unix" and file_paths.absolute(other.path) == path:
                return listener
    return None


def _bind_group(address: Address, current: Sockets, leaving: Sockets, sockets: Sockets, workers: int) -> None:
    """Add the sockets of an address with reuse_port to `sockets`. Raises StartError."""
    count = max([workers, *(known.number for known in current if known.numbered(0) == address)])
    for number in range(1, count + 1):
        own = address.numbered(number)
        known = current.get(own) or (current.get(address) if number == 1 else None)
        if known is not None:
            _share_port(address, known)
        elif number > 1 and not address.port:  # the port that the kernel has chosen for the first
            port = sockets[address.numbered(1)].getsockname()[1]
            known = bind(replace(own, port=port), leaving)
        sockets[own] = known or bind(own, leaving)


def begin(sockets: Sockets, wanted: Sequence[Listener]) -> None:
    """Let the sockets take clients, with the backlogs of `wanted`. From now on the kernel spreads clients over all
    sockets of a group. A TCP socket that an application has shut down, for all processes that share it, is opened
    again.
    """
    backlogs = {listener.address: listener.backlog for listener in wanted}
    for address, listener in sockets.items():
        try:
            listener.listen(backlogs[address.numbered(0)])
        except OSError as error:
            log.error("one of the sockets of %s takes no clients: %s", address, error.strerror)


def worker_sockets(sockets: Sockets, position: int, workers: int) -> Sockets:
    """The sockets that the worker at `position` (from 0 on) of `workers` must accept from. No socket is left over."""
    return {
        address: listener
        for address, listener in sockets.items()
        if not address.number or (address.number - 1) % workers == position
    }


def _share_port(address: Address, bound: socket.socket) -> None:
    """Allow other sockets of ours on the same port, before this one is bound or after. Raises StartError."""
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except (OSError, AttributeError):
        raise StartError(f"cannot listen on {address}: this system has no reuse_port") from None


def _open(listener: Listener, leaving: Sockets, mode: int) -> socket.socket:
    with permissions.creating(mode if listener.mode is None else listener.mode):
        bound = bind(listener.address, leaving)
    try:
        permissions.permit(listener, bound)  # while nobody can connect yet
        bound.listen(listener.backlog)  # where two have bound the same address, the second learns of it here
    except (OSError, StartError) as error:
        _remove_file(bound)
        bound.close()
        raise (_refused(listener.address, error, leaving) if isinstance(error, OSError) else error) from None
    return bound


def release(sockets: Sockets, keep: Sockets) -> None:
    """Close the sockets that are not in `keep`, drop them from `sockets`, and remove the files of unix sockets, but no
    file that has taken the place of one.

    Other processes may share a socket, and go on accepting the clients in its queue. No new client gets into it.
    """
    kept = set(keep.values())  # under another number, perhaps
    for address in [address for address, listener in sockets.items() if listener not in kept]:
        listener = sockets.pop(address)
        _remove_file(listener)
        _close_queue(listener)
        listener.close()


def _remove_file(listener: socket.socket) -> None:
    if file := socket_file.of(listener):
        file.remove()


def _close_queue(listener: socket.socket) -> None:
    """Have the kernel drop every SYN (Linux), so that the queue can be emptied to the last client.

    Else a client that gets in between the last accept and the last close is reset, perhaps after it has sent a request:
    under load, that happens in one stop of twenty. A client whose SYN is dropped asks again a second later, and is
    refused, or meets the next server. This is for good: it must not be done to a socket that lives on in a process that
    will serve it.
    """
    with suppress(OSError):  # another system, or a sandbox
        program = struct.pack("HP", len(_DROP_SYN) // 8, _DROP_SYN.buffer_info()[0])
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def is_shut(listener: socket.socket) -> bool:
    """True when nobody can accept from it any more: by shutdown(2), which concerns all that share it, or worse."""
    look = select.poll()
    look.register(listener.fileno(), select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in look.poll(0))


def bind(address: Address, leaving: Sockets | None = None) -> socket.socket:
    """A bound, non-blocking socket. Raises StartError that names the address and the way out.

    `leaving` are sockets of this server that may be in the way for the time being.
    """
    try:
        bound = _bind_unix(address.path) if address.kind == "unix" else _bind_tcp(address)
    except OSError as error:
        raise _refused(address, error, leaving or {}) from None
    bound.setblocking(False)
    return bound


def _bind_tcp(address: Address) -> socket.socket:
    family, where = _resolve(address.host, address.port)
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "[::]" leaves 0.0.0.0 to its own listener
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if address.number:
            _share_port(address, bound)
        bound.bind(where)
    except (OSError, StartError):
        bound.close()
        raise
    return bound


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The family of a TCP address, and what `bind` takes for it. Raises socket.gaierror."""
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, where


def _bind_unix(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        socket_file.bind(bound, path)
    except OSError:
        bound.close()
        raise
    return bound


def _refused(address: Address, error: OSError, leaving: Sockets) -> StartError:
    ways_out = {
        errno.EADDRINUSE: "something listens there already; stop it, or choose another address in `listen`",
        errno.EACCES: "no permission; a port below 1024 needs root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENOENT: "its directory does not exist",
    }
    why = error.strerror or str(error)
    if address.kind == "unix" and error.errno == errno.EADDRINUSE and not socket_file.is_socket(address.path):
        why = "the file exists already, and is no socket"
    elif address.kind == "unix" and error.errno == errno.EACCES:
        why = "no permission to create a file in its directory"
    elif error.errno == errno.EADDRINUSE and (own := _in_the_way(address, leaving)):
        why = f"this server itself listens there, on {own}; only a restart (stop and start) can change that"
    elif error.errno in ways_out and not isinstance(error, socket.gaierror):  # gaierror has numbers of its own
        why = ways_out[error.errno]
    return StartError(f"cannot listen on {address}: {why}")


def _in_the_way(address: Address, leaving: Sockets) -> Address | None:
    """The address of the socket among `leaving` that is in the way of `address`: it is the same by another name, or one
    of the two is a wildcard.
    """
    if address.kind == "tcp":
        with suppress(socket.gaierror):
            family, (host, port, *_) = _resolve(address.host, address.port)
            for other, listener in leaving.items():
                if listener.family == family and listener.getsockname()[1] == port:
                    hosts = {host, listener.getsockname()[0]}
                    if len(hosts) == 1 or hosts & {"0.0.0.0", "::"}:
                        return other
    return None
