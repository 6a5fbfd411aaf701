"""Sinks: the targets of log bytes, each standard error, a file or nothing. A sink owns its descriptor. Once open, it
never waits and never raises; it counts the lines that it loses.

Other programs share standard error, so we must not set its O_NONBLOCK. A pipe or a terminal is opened by its path in
/proc instead, which gives a file description of our own. The system may not allow that (another user's pipe, a socket,
no /proc). So anything but a regular file is polled before each write, which is short: a pipe that polls as writable
takes PIPE_BUF bytes, and a socket more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from weakref import WeakSet

from prefork.net import file_paths
from prefork.observe.log_file import Owner, open_log

_STDERR = 2
_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PIPE_SIZE = 1 << 20  # Linux's 64 KiB hold 10 ms of a busy access log; a reader may wait longer for a processor
_SLOW_READER = "its reader does not keep up"


class Sink:
    """One log target: "-" is standard error, "" is off, anything else a path. `dropped` counts lost lines.

    It has no lock: while a thread writes to it or reopens it, no other thread may.
    """

    def __init__(self, target: str, owner: Owner | None = None) -> None:
        """Root may make `owner` the owner of a file, so that he can reopen it (see log_file.py).

        Raises OSError where the target cannot be opened, for a named pipe without a reader as well.
        """
        # absolute, as an application may change the directory before the file is reopened
        self.target = target if target in ("", "-") else file_paths.absolute(target)
        self._failure = 0  # the errno for which the last line was lost
        self.start_afresh()
        self._owner = owner
        self._fd = -1
        self._take(_open(self.target, owner))
        _sinks.add(self)

    def start_afresh(self) -> None:
        """Forget lost lines and the rest of a line that was cut short. It is called in every forked child, as the
        parent reports and completes its own lines.
        """
        self.dropped = 0
        self._announced = 0  # how many of the dropped lines the log itself has reported
        self._rest = b""  # the rest of a line that was cut short
        self._board: memoryview | None = None
        self._words = (0, 0)

    def count_in(self, board: memoryview, lost: int, failure: int) -> None:
        """From now on, also count lost lines in the word `lost` of `board`, and put the errno of the last loss into
        the word `failure`.
        """
        self._board, self._words = board, (lost, failure)

    def fileno(self) -> int:
        """The descriptor; -1 where the target is off.

        It stays the same when the target is reopened, unless an application has closed it.
        """
        return self._fd

    def leads_where(self, other: Sink) -> bool:
        """Whether both write to the same file, terminal or pipe."""
        return self._fd >= 0 and self._identity == other._identity

    def write(self, lines: bytes) -> None:
        """Write whole lines, each with its newline. Lines that cannot be written now are lost; the next write that
        succeeds reports them first.

        Only the rest of a line that was cut short is kept: the next write completes that line.
        """
        rest, note = self._rest, self._note()
        text = rest + note + lines
        sent = self._push(text)
        if note and sent > len(rest):
            self._announced = self.dropped
        end = sent
        if sent < len(rest) or (0 < sent < len(text) and text[sent - 1] != 0x0A):
            end = text.find(b"\n", sent) + 1 or len(text)
        self._rest = text[sent:end]
        if end < len(text):
            self._lose(text.count(b"\n", max(end, len(rest) + len(note))))

    def _lose(self, lines: int) -> None:
        self.dropped += lines
        if self._board is not None and lines:
            lost, failure = self._words
            self._board[lost] += lines
            self._board[failure] = self._failure

    def reopen(self) -> str:
        """Reopen the target, as after a rotation. Returns "", or the reason why the sink still writes to the old file
        though that is no longer the target.
        """
        if self._fd < 0:
            return ""
        try:
            fresh = _open(self.target, self._owner)
        except OSError as error:
            return "" if self._is_there() else f"{self.target}: {error.strerror}"
        if self._rest and not os.path.sameopenfile(fresh, self._fd):
            self._rest = b""
            self._lose(1)
        if identity(self._fd) != self._identity:  # an application has closed it, and may use its number
            self._take(fresh)
            return ""
        # The number must stay the same, as faulthandler writes to it, too.
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self._take(self._fd)
        return ""

    def _is_there(self) -> bool:
        """Whether the target still is the very file that is open, so that it was not moved away."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.target), os.fstat(self._fd))
        return False

    def close(self) -> None:
        """Close the descriptor; from then on the target is off."""
        if self._fd >= 0:
            self.write(b"")  # the last chance to report lost lines
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def _note(self) -> bytes:
        lost = self.dropped - self._announced
        if not lost:
            return b""
        return f"prefork: {lost} log line{' was' if lost == 1 else 's were'} lost ({reason(self._failure)})\n".encode()

    def _push(self, text: bytes) -> int:
        """Write as much as is possible without waiting. Returns the number of bytes; if these are not all, `_failure`
        is the errno that says why.
        """
        if self._fd < 0:
            return len(text)
        sent = 0
        try:
            while sent < len(text):
                if self._paced and not _is_writable(self._fd):
                    raise BlockingIOError
                sent += os.write(self._fd, _piece(text, sent) if self._paced else text[sent:])
        except BlockingIOError:
            self._failure = errno.EAGAIN
        except OSError as error:
            self._failure = error.errno or errno.EIO
            if self._failure == errno.EBADF and self.recover():
                return sent + self._push(text[sent:])
        return sent

    def recover(self) -> bool:
        """Open the target by another descriptor if an application has closed ours, as libraries that make daemons do.
        False where ours is still open, or the target is off or cannot be opened.

        It does not use dup2: the old number may belong to a file of the application by now, which must keep it.
        """
        if self._fd < 0 or identity(self._fd) == self._identity:
            return False
        try:
            self._take(_open(self.target, self._owner))
        except OSError:
            return False
        return True

    def _take(self, fd: int) -> None:
        self._fd = fd
        self._identity = identity(fd)
        self._paced = _needs_pacing(fd)


_sinks: WeakSet[Sink] = WeakSet()


def _start_afresh() -> None:
    for sink in _sinks:
        sink.start_afresh()


os.register_at_fork(after_in_child=_start_afresh)  # before the child can write, or close a sink and so complete a line


def reason(failure: int) -> str:
    """The reason why lines were lost, in words, for an errno."""
    if failure == errno.EAGAIN:
        return _SLOW_READER
    return os.strerror(failure) if failure in errno.errorcode else "no known reason"


def _open(target: str, owner: Owner | None) -> int:
    if not target:
        return -1
    fd = _open_stderr() if target == "-" else open_log(target, owner)
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError, AttributeError):  # above the user's quota; no Linux
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return fd


def _open_stderr() -> int:
    mode = os.fstat(_STDERR).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{_STDERR}", _FLAGS)
    return os.dup(_STDERR)


def _needs_pacing(fd: int) -> bool:
    """Whether a write could wait for a reader: true for any file that is not a regular one."""
    return fd >= 0 and not stat.S_ISREG(os.fstat(fd).st_mode)


def identity(fd: int) -> tuple[int, int] | None:
    """The device and inode of the file that is open as `fd`; None where `fd` is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def _piece(text: bytes, start: int) -> bytes:
    """At most PIPE_BUF bytes of `text` from `start` on, in whole lines if possible. A pipe takes all of them or none,
    and does not mix them with the writes of others.
    """
    end = start + select.PIPE_BUF
    if end >= len(text):
        return text[start:]
    return text[start : text.rfind(b"\n", start, end) + 1 or end]
