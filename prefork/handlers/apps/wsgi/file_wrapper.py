"""What a WSGI environ brings along: wsgi.file_wrapper and wsgi.errors (PEP 3333)."""

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

LONGEST = 32 * 1024  # characters of one line in the log: those of a thread that ends none do not take all memory


class FileWrapper:
    """wsgi.file_wrapper: an iterable over a file, which is sent by sendfile(2) where it is one on disk.

    It ends where the file does or, once `segment` knows it, with the response's Content-Length (PEP 3333).
    """

    def __init__(self, file: Any, block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size
        self._left = sys.maxsize
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return self  # a generator's close() would not be the file's, for middleware that keeps the iterator alone

    def __next__(self) -> bytes:
        data: bytes = self.file.read(min(self.block_size, self._left))
        if not data:
            raise StopIteration
        self._left -= len(data)
        return data

    def segment(self, length: int | None) -> FileSegment | None:
        """From the file's position on, at most `length` bytes; None for what only looks like a file (gzip, say).

        It has a descriptor of its own, so that the file can be closed at once, in the thread that has opened it.
        """
        if length is not None:
            self._left = length
        try:
            # a reader may stand on top of something else, which has the descriptor of a file with other contents
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
    """wsgi.errors: whole lines go to the error log, whatever its level is, as the application's and with no severity,
    since nobody knows that. Each thread has a line of its own under way, which `flush` ends; one longer than LONGEST
    is several.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []  # of the line under way
        self._size = 0  # of these, in characters

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
        if self._size > LONGEST:
            line = "".join(self._pieces)
            whole = len(line) // LONGEST * LONGEST
            for at in range(0, whole, LONGEST):
                _tell(line[at : at + LONGEST])
            self._pieces, self._size = [line[whole:]], len(line) - whole

    def _end(self) -> None:
        line, self._pieces, self._size = "".join(self._pieces), [], 0
        _tell(line)


def _tell(line: str) -> None:
    log.log(APPLICATION, "%s", line)
