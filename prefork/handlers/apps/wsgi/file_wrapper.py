"""Two objects of a WSGI environ: wsgi.file_wrapper and wsgi.errors (PEP 3333)."""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from prefork.http.message import FileSegment
from prefork.logger import APPLICATION, log

LONGEST_LINE = 32 * 1024  # characters of one line in the log, so that a line which never ends does not take all memory


class FileWrapper:
    """wsgi.file_wrapper: an iterable over a file. A regular file on disk is sent by sendfile(2) instead.

    It ends where the file ends. Once `segment` has been given the response's Content-Length, it also ends after as many
    bytes (PEP 3333).
    """

    def __init__(self, file: Any, block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size
        self._left = sys.maxsize
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return self  # not a generator: middleware may keep the iterator alone, and its close() must close the file

    def __next__(self) -> bytes:
        data: bytes = self.file.read(min(self.block_size, self._left))
        if not data:
            raise StopIteration
        self._left -= len(data)
        return data

    def segment(self, length: int | None) -> FileSegment | None:
        """The file from its position on, at most `length` bytes of it (None: to its end).

        The result is None for an object that only looks like a file (gzip, say), for anything but a regular file, and
        where no bytes are left. The segment has a descriptor of its own, so that the file can be closed at once, in the
        thread that has opened it.
        """
        if length is not None:
            self._left = length
        try:
            # a BufferedReader may wrap an object (gzip, say) whose descriptor is that of a file with other contents
            raw = self.file.raw if type(self.file) in (io.BufferedReader, io.BufferedRandom) else self.file
            if type(raw) is not io.FileIO:
                return None
            offset, status = self.file.tell(), os.fstat(raw.fileno())
        except (OSError, ValueError):
            return None
        count = min(status.st_size - offset, self._left)
        if not stat.S_ISREG(status.st_mode) or count <= 0:  # files of /proc say that they are empty
            return None
        descriptor = os.dup(raw.fileno())
        return FileSegment(descriptor, offset, count, partial(os.close, descriptor))


class ErrorStream(threading.local):
    """wsgi.errors: whole lines go to the error log, whatever its level is. They are marked as the application's, and
    have no severity, since none is known.

    Each thread has an unfinished line of its own, which `flush` ends. A line longer than LONGEST_LINE is cut into
    several.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []  # of the unfinished line
        self._size = 0  # characters of these

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        begin, *lines = text.split("\n")
        self._add(begin)
        for line in lines:
            self._end()
            self._add(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._size:
            self._end()

    def isatty(self) -> bool:
        return False

    def _add(self, piece: str) -> None:
        if not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > LONGEST_LINE:
            line = "".join(self._pieces)
            whole = len(line) // LONGEST_LINE * LONGEST_LINE
            for at in range(0, whole, LONGEST_LINE):
                _tell(line[at : at + LONGEST_LINE])
            self._pieces, self._size = [line[whole:]], len(line) - whole

    def _end(self) -> None:
        line, self._pieces, self._size = "".join(self._pieces), [], 0
        _tell(line)


def _tell(line: str) -> None:
    log.log(APPLICATION, "%s", line)
