"""File locks: one holder at a time, of those who may write to the file. Owns the choice of the lock.

By flock(2) whoever may read a file can lock it, and a pid file is everybody's to read: any user could wait for a master
to die, and then keep the next one from starting for as long as he likes. So it is locked for writing as a whole, by
its open file description (fcntl(2), F_OFD_SETLK), which a fork and an execve hand on likewise. That takes the right to
write; by a lock for reading others can still be in the way, but it tells that it is one, and that no holder is there.

Systems that have no such locks have flock.
"""

from __future__ import annotations

import fcntl
import struct
import sys

_HAS_OWN = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: l_type, l_whence, l_start, l_len (0 is all), l_pid
_WHOLE = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)


def take(file: int) -> None:
    """Lock the file, by its descriptor to read and write. Raises BlockingIOError where that is locked, OSError."""
    if _HAS_OWN:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _WHOLE)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_read_locked(file: int) -> bool:
    """Whether what is in the way are locks for reading, so that nobody has taken it. Raises OSError."""
    if not _HAS_OWN:
        return False
    return bool(_FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WHOLE))[0] == fcntl.F_RDLCK)
