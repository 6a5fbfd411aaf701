"""File locks: one holder at a time, who must be able to write to the file. Owns the choice between two kinds of lock.

With flock(2), any process that can read a file can lock it, and everybody can read a pid file. So any user could wait
for a master to die, and then keep the next one from starting. Therefore the whole file is locked for writing, by its
open file description (fcntl(2), F_OFD_SETLK), which takes the right to write to it. A fork and an execve hand this lock
on, as they do with flock. Another user can still be in the way with a lock for reading. But the kernel tells that it is
one, and so that no master holds the file.

Systems without such locks use flock.
"""

from __future__ import annotations

import fcntl
import struct
import sys

_HAS_OWN = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: l_type, l_whence, l_start, l_len (0 is all), l_pid
_WHOLE = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)


def acquire(file: int) -> None:
    """Lock a file by `file`, a descriptor for reading and writing. Raises BlockingIOError where another process has
    locked it, or OSError.
    """
    if _HAS_OWN:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _WHOLE)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_read_locked(file: int) -> bool:
    """Whether a lock for reading is in the way, so that no master holds the file. Raises OSError."""
    if not _HAS_OWN:
        return False
    return bool(_FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WHOLE))[0] == fcntl.F_RDLCK)
