"""Peers: who is at the other end of a unix socket, by the kernel's word.

Of a connection the kernel knows who called listen(2). That may have been root for a server whose workers are somebody
else, and accept by the same socket; and whoever owns its directory can give it another's name. So whom we ask may not
be who answers, and it is also of each piece of the answer that the kernel tells who has written it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from prefork.net.file_paths import ROOT

_UCRED = struct.Struct("iII")  # pid, uid, gid (unix(7), SO_PEERCRED)
_XUCRED = struct.Struct("II")  # how struct xucred begins: version, uid (FreeBSD's unix(4); macOS)
_LOCAL_PEERCRED = 1


def user(connection: socket.socket) -> int | None:
    """The user who has connected, or who listens; None where the system does not tell. Raises OSError."""
    if sys.platform == "linux":
        return int(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        return int(_XUCRED.unpack(connection.getsockopt(0, _LOCAL_PEERCRED, 128)[: _XUCRED.size])[1])
    return None


def stranger(connection: socket.socket) -> int | None:
    """The user at the other end, where that is neither root nor we ourselves; else None. Raises OSError."""
    return _strange(user(connection))


def demand_writers(connection: socket.socket) -> None:
    """Have the kernel note who writes, for `receive`: to be called before anybody can. Raises OSError."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(connection: socket.socket, size: int) -> tuple[bytes, int | None]:
    """What `recv` gives, and who has written it, as `stranger` has it; of the end nobody tells. Raises OSError."""
    if sys.platform != "linux":
        return connection.recv(size), None
    piece, ancillary, _, _ = connection.recvmsg(size, socket.CMSG_SPACE(_UCRED.size))
    writers = [_UCRED.unpack(told)[1] for _, kind, told in ancillary if kind == socket.SCM_CREDENTIALS]
    return piece, next(filter(None, map(_strange, writers)), None)


def _strange(other: int | None) -> int | None:
    return None if other in (None, ROOT, os.geteuid()) else other
