"""Permissions: who may connect to a unix socket, by the mode, owner and group of its file (unix(7))."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from prefork.errors import StartError
from prefork.settings.schema import Listener


@contextmanager
def creating(listener: Listener) -> Iterator[None]:
    """While its file is made: it has the listener's mode from the beginning, if that has one."""
    if listener.mode is None:
        yield
        return
    mask = os.umask(0o777 & ~listener.mode)
    try:
        yield
    finally:
        os.umask(mask)


def permit(listener: Listener) -> Callable[[], None]:
    """Give the file of a unix socket the mode, owner and group that its listener has; what undoes it.

    Raises StartError, with nothing changed.
    """
    address, mode, owner, group = listener.address, listener.mode, listener.owner, listener.group
    if mode is owner is group is None:
        return lambda: None
    try:
        before = os.stat(address.path)

        def restore() -> None:
            with suppress(OSError):  # somebody has removed it
                os.chown(address.path, before.st_uid, before.st_gid)
                os.chmod(address.path, stat.S_IMODE(before.st_mode))

        os.chown(address.path, -1 if owner is None else owner, -1 if group is None else group)
        if mode is not None:
            os.chmod(address.path, mode)
    except PermissionError:
        raise StartError(
            f"cannot give {address} to its owner and group: no permission; that takes root, or a group that you are in"
        ) from None
    except OSError as error:
        raise StartError(f"cannot set the permissions of {address}: {error.strerror}") from None
    return restore
