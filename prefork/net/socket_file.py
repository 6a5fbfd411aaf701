"""Socket files: the entry in the file system by which a unix socket is found (unix(7)). Owns which of them are ours.

The owner of the directory may put something else in the place of a socket that we have bound: another socket, or a link
to a file of root's. So each socket file is known by device and inode, which it keeps as long as the socket is open. Its
permissions are changed by a descriptor of that very file. It is removed by its name, relative to the descriptor of its
directory, right after its device and inode have been compared.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prefork.net import file_paths
from prefork.net.file_paths import Place


@dataclass(frozen=True)
class SocketFile:
    """The file at an absolute `path`, as long as it is the one with this `device` and `inode`."""

    path: str
    device: int
    inode: int

    @contextmanager
    def found(self) -> Iterator[Place]:
        """The place where the file stands. Raises OSError where it stands there no more."""
        with file_paths.place(self.path) as place:
            status = place.status()
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                raise FileNotFoundError(errno.ENOENT, "another file has taken its place")
            yield place

    @contextmanager
    def opened(self) -> Iterator[tuple[str, os.stat_result]]:
        """A path to this very file, even if that is renamed meanwhile, and its status. Raises OSError as `found`."""
        with self.found() as place, _very(place) as very:
            status = os.stat(very)
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                raise FileNotFoundError(errno.ENOENT, "another file has taken its place")
            yield very, status

    def remove(self) -> None:
        """Remove the file, if it is still there."""
        with suppress(OSError), self.found() as place:
            place.unlink()


_ours: WeakKeyDictionary[socket.socket, SocketFile] = (
    WeakKeyDictionary()
)  # of sockets that this process has bound, or got from another one


def bind(bound: socket.socket, path: str) -> None:
    """Bind the socket to `path`, in the place of a socket file on which nobody listens any more. Raises OSError.

    bind(2) takes no descriptor of a directory. So where others can make `path` lead elsewhere meanwhile, the socket is
    bound from within the directory that was found, and ss(8) lists it by its bare name.
    """
    with file_paths.place(path) as place:
        if _is_stale(place):
            place.unlink()
        if place.exposed:
            with file_paths.inside(place.directory):
                bound.bind(place.name)
        else:
            bound.bind(path)
        know(bound, path)
        if bound not in _ours:
            if place.exposed:
                place.unlink()
            raise FileNotFoundError(errno.ENOENT, "its directory has been moved away meanwhile")


def know(bound: socket.socket, path: str) -> None:
    """Note that the file at `path` is the one of this socket, if it is a socket that has no other name."""
    with suppress(OSError), file_paths.place(path) as place:
        status = place.status()
        if stat.S_ISSOCK(status.st_mode) and status.st_nlink == 1:
            _ours[bound] = SocketFile(file_paths.absolute(path), status.st_dev, status.st_ino)


def entrust(bound: socket.socket, file: SocketFile) -> None:
    """Note the file of a socket that another process has bound."""
    _ours[bound] = file


def of(bound: socket.socket) -> SocketFile | None:
    """The file of a unix socket of ours; None where others have bound the socket, or nobody has."""
    return _ours.get(bound)


def is_socket(path: str) -> bool:
    """True when a socket stands at `path`, and no link to one."""
    try:
        with file_paths.place(path) as place:
            return stat.S_ISSOCK(place.status().st_mode)
    except OSError:
        return False


def _is_stale(place: Place) -> bool:
    """True for a socket file on which nobody listens any more."""
    with suppress(FileNotFoundError), _very(place) as very:
        if stat.S_ISSOCK(os.stat(very).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                return probe.connect_ex(very) == errno.ECONNREFUSED
    return False


@contextmanager
def _very(place: Place) -> Iterator[str]:
    """A path to the very file that stands there now. It follows no link where there is O_PATH. Raises OSError."""
    if not hasattr(os, "O_PATH"):  # other systems must trust in names
        yield place.path
        return
    file = place.open(os.O_PATH)
    try:
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)
