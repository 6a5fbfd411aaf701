"""Peers: which user is at the other end of a unix socket, by the kernel's word. Owns the systems' ways to ask.

For a connection, the kernel tells which user called listen(2). That may have been root, for a server whose workers are
another user's and accept by the same socket. Besides, the owner of the socket's directory can give its name to another
socket. So the user that we ask may not be the user that answers. Therefore the kernel also tells us the writer of each
piece of the answer.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from prefork.net.file_paths import ROOT

_UCRED = struct.Struct("iII")  # pid, uid, gid (unix(7), SO_PEERCRED)
_XUCRED = struct.Struct("II")  # the beginning of struct xucred: version, uid (FreeBSD's unix(4); macOS)
_LOCAL_PEERCRED = 1


def user(connection: socket.socket) -> int | None:
    """The user that has connected, or that listens; None where the system does not tell. Raises OSError."""
    if sys.platform == "linux":
        return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        return int(_XUCRED.unpack(connection.getsockopt(0, _LOCAL_PEERCRED, 128)[: _XUCRED.size])[1])
    return None


def stranger(connection: socket.socket) -> int | None:
    """The user at the other end, if it is neither root nor our own; else None. Raises OSError."""
    return _strange(user(connection))


def demand_writers(connection: socket.socket) -> None:
    """Have the kernel note who writes, for `receive`. Must be called before anybody can write. Raises OSError."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(connection: socket.socket, size: int) -> tuple[bytes, int | None]:
    """The bytes that `recv` gives, and their writer as by `stranger`; the end of the stream has no writer. Raises
    OSError. Only Linux tells the writer.
    """
    if sys.platform != "linux":
        return connection.recv(size), None
    piece, ancillary, _, _ = connection.recvmsg(size, socket.CMSG_SPACE(_UCRED.size))
    writers = [_UCRED.unpack(told)[1] for _, kind, told in ancillary if kind == socket.SCM_CREDENTIALS]
    return piece, next(filter(None, map(_strange, writers)), None)


def _strange(other: int | None) -> int | None:
    return None if other in (None, ROOT, os.geteuid()) else other
