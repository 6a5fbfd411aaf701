"""Where log bytes go: standard error, a file or nowhere. Owns its descriptor; never waits, never raises, counts losses.

Standard error is shared with other programs, so its O_NONBLOCK is not ours to set. A pipe or a terminal is opened anew
instead, which gives a file description of our own. Where the system does not allow that (another user's pipe, a
socket, no /proc), polling before each short write has to do: a pipe that polls as writable takes PIPE_BUF bytes, a
socket rather more.
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
_PIPE_SIZE = 1 << 20  # Linux has 64 KiB, 10 ms of a busy access log: a reader waits longer than that for a processor
_SLOW_READER = "its reader does not keep up"


class Sink:
    """One log target: "-" is standard error, "" is off, all else a path. Two threads must not write to it at once, nor
    one open it anew meanwhile.

    Raises OSError where the target cannot be opened; a named pipe needs a reader by then. `dropped` counts lost lines.
    """

    def __init__(self, target: str, owner: Owner | None = None) -> None:
        """As root, a file may be given to `owner`, who has to open it anew."""
        # absolute, as an application may change the directory before we open it again
        self.target = target if target in ("", "-") else file_paths.absolute(target)
        self._failure = 0  # the errno for which the last line was lost
        self.start_afresh()
        self._owner = owner
        self._fd = -1
        self._take(_open(self.target, owner))
        _sinks.add(self)

    def start_afresh(self) -> None:
        """Forget what was lost: called in every forked child, whose parent tells of it, and completes its own lines."""
        self.dropped = 0
        self._announced = 0  # how many of the dropped lines the log itself tells of
        self._rest = b""  # what is missing of a line that was cut short
        self._board: memoryview | None = None
        self._words = (0, 0)

    def count_in(self, board: memoryview, lost: int, failure: int) -> None:
        """From now on, count the lines that this process loses in the word `lost` of `board` as well, and put the errno
        of the last one into the word `failure`.
        """
        self._board, self._words = board, (lost, failure)

    def fileno(self) -> int:
        """Its descriptor, the same however often it is opened anew; -1 where the target is off."""
        return self._fd

    def leads_where(self, other: Sink) -> bool:
        """Whether both write to the same file, terminal or pipe."""
        return self._fd >= 0 and self._identity == other._identity

    def write(self, lines: bytes) -> None:
        """Write whole lines, each with its newline. What does not fit now is lost, and announced before what next does.

        Only a line that was cut short waits for the next write, which completes it.
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
        """Open the target anew, as after a rotation. Returns "", or the reason why it still writes to the old file."""
        if self._fd < 0:
            return ""
        try:
            fresh = _open(self.target, self._owner)
        except OSError as error:
            return "" if self._is_there() else f"{self.target}: {error.strerror}"
        if self._rest and not os.path.sameopenfile(fresh, self._fd):
            self._rest = b""
            self._lose(1)
        if identity(self._fd) != self._identity:  # an application has closed it, and may have its number
            self._take(fresh)
            return ""
        # The number stays the same: faulthandler has it, too.
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self._take(self._fd)
        return ""

    def _is_there(self) -> bool:
        """Whether the target is the very file that is open: nobody has moved it away."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.target), os.fstat(self._fd))
        return False

    def close(self) -> None:
        """Close the descriptor; from then on the target is off."""
        if self._fd >= 0:
            self.write(b"")  # the last chance for an announcement
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def _note(self) -> bytes:
        lost = self.dropped - self._announced
        if not lost:
            return b""
        return f"prefork: {lost} log line{' was' if lost == 1 else 's were'} lost ({reason(self._failure)})\n".encode()

    def _push(self, text: bytes) -> int:
        """Write what goes without waiting; returns how many bytes that was, and leaves why not all in `_failure`."""
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
        """Have another descriptor, if there is one, where an application has closed ours, as libraries do that make
        daemons, and its number may be another's by now. False where it is ours still, or there is none.

        Never by dup2: whoever has the number now is to keep it.
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


os.register_at_fork(after_in_child=_start_afresh)  # before the child can write, or close what is its parent's alone


def reason(failure: int) -> str:
    """An errno in words."""
    if failure == errno.EAGAIN:
        return _SLOW_READER
    return os.strerror(failure) if failure in errno.errorcode else "no known reason"


def _open(target: str, owner: Owner | None) -> int:
    if not target:
        return -1
    fd = _open_stderr() if target == "-" else open_log(target, owner)
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError, AttributeError):  # beyond the user's quota; not Linux
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return fd


def _open_stderr() -> int:
    mode = os.fstat(_STDERR).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{_STDERR}", _FLAGS)
    return os.dup(_STDERR)


def _needs_pacing(fd: int) -> bool:
    """Whether a write could wait for a reader: everything but a regular file."""
    return fd >= 0 and not stat.S_ISREG(os.fstat(fd).st_mode)


def identity(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor is of; None where it is closed."""
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
    """At most PIPE_BUF bytes, if possible of whole lines: a pipe takes all or none, unmixed with what others write."""
    end = start + select.PIPE_BUF
    if end >= len(text):
        return text[start:]
    return text[start : text.rfind(b"\n", start, end) + 1 or end]
