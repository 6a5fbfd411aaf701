"""Permissions: which users may connect to a unix socket, by the mode, owner and group of its file (unix(7))."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from prefork.errors import StartError
from prefork.net import socket_file
from prefork.settings.address import Address
from prefork.settings.schema import Listener

EVERYBODY = 0o666  # may connect, as to nginx, gunicorn and uvicorn: mostly, a proxy is another user


def usual_mode(umask: int | None) -> int:
    """The mode of a socket's file where its listener names none. `umask` is the one that the operator has named, or
    None.

    A umask that a shell or a service manager happens to have set does not count: 022, the usual one, keeps proxies out.
    """
    return EVERYBODY & ~(umask or 0)


@contextmanager
def creating(mode: int) -> Iterator[None]:
    """While a socket's file is made: it has this mode from the beginning."""
    mask = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(mask)


def permit(listener: Listener, bound: socket.socket) -> Callable[[], None]:
    """Give the file of a unix socket the mode, owner and group that its listener has. Returns a function that undoes
    this. A file that is not ours stays as it is.

    Raises StartError, with the mode unchanged.
    """
    address, mode, owner, group = listener.address, listener.mode, listener.owner, listener.group
    file = socket_file.of(bound)
    if file is None or mode is owner is group is None:
        return lambda: None
    try:
        with file.opened() as (path, before):
            os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
            if mode is not None:
                os.chmod(path, mode)
    except PermissionError:
        raise StartError(
            f"cannot give {address} to its owner and group: no permission; that takes root, or a group that you are in"
        ) from None
    except OSError as error:
        raise StartError(f"cannot set the permissions of {address}: {error.strerror}") from None

    def restore() -> None:
        with suppress(OSError), file.opened() as (path, _):  # somebody may have removed it
            os.chown(path, before.st_uid, before.st_gid)
            os.chmod(path, stat.S_IMODE(before.st_mode))

    return restore


def permit_all(listeners: Iterable[Listener], sockets: Mapping[Address, socket.socket]) -> ExitStack:
    """As `permit`, for all of these. The stack that is returned undoes it when it is closed.

    Raises StartError as `permit` does, with the others undone.
    """
    with ExitStack() as undo:
        for listener in listeners:
            if listener.address in sockets:
                undo.callback(permit(listener, sockets[listener.address]))
        return undo.pop_all()
