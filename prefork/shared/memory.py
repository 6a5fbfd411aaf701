"""Shared memory: made by the master, and mapped in each process as that process may use it. Owns who can write.

A mapping outlives a fork, and a mapping that mprotect(2) can make writable is as good as writable. So a process that
may only read maps the memory anew, by a descriptor that was opened for reading: the kernel lets nobody write through
that (mmap(2), EACCES). No copy of the descriptor by which the memory could be mapped once more is left behind.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import tempfile
from contextlib import suppress

_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW")  # memory that is cut off kills every process that looks at it (SIGBUS)


def create(size: int) -> tuple[int, int]:
    """Two descriptors of `size` bytes of new memory: the first to write it, the second to read it. Raises OSError."""
    try:
        return _create_memory(size)
    except (AttributeError, OSError):  # another system; no /proc; vm.memfd_noexec
        return _create_file(size)


def _create_memory(size: int) -> tuple[int, int]:
    writing = os.memfd_create("prefork", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(writing, 0o600)
        os.ftruncate(writing, size)
        fcntl.fcntl(writing, fcntl.F_ADD_SEALS, sum(getattr(fcntl, name) for name in _SEALS))
        return writing, os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(writing)
        raise


def _create_file(size: int) -> tuple[int, int]:
    writing, path = tempfile.mkstemp()
    try:
        os.ftruncate(writing, size)
        return writing, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.unlink(path)


def map_memory(descriptor: int, size: int, offset: int = 0, *, writable: bool = False) -> mmap.mmap:
    """Map that memory in this process, from `offset` on, which must be a multiple of mmap.ALLOCATIONGRANULARITY.
    Afterwards `descriptor` may be closed. Raises OSError.
    """
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, mmap.MAP_SHARED, access, offset=offset, trackfd=False)
    before = _descriptors()
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, access, offset=offset)
    for copy in _descriptors() - before:
        if os.path.sameopenfile(copy, descriptor):
            _lead_nowhere(copy)
    return memory


def _descriptors() -> set[int]:
    """The descriptors that are open; none where the system does not tell."""
    found = set()
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the one that listed them is closed by now
                os.fstat(int(name))
                found.add(int(name))
    return found


def _lead_nowhere(descriptor: int) -> None:
    """Make the descriptor one of /dev/null. It stays open, as its holder will close it."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)
