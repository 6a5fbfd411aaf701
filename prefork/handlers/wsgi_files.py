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
from prefork.logger import log


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
    """wsgi.errors: whole lines go to the error log. Each thread has a line of its own under way."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.error("application: %s", line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._line:
            line, self._line = self._line, ""
            log.error("application: %s", line)
