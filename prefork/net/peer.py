"""Peers: who is at the other end of a unix socket, by the kernel's word."""

from __future__ import annotations

import os
import socket
import struct
import sys

from prefork.net.paths import ROOT

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
    other = user(connection)
    return None if other in (None, ROOT, os.geteuid()) else other
