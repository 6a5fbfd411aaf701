"""The response buffer: pieces of a response body, between the thread that makes them and the task that sends them.

A client that reads slowly must not hold up the application. So the pieces wait in memory, and then in a temporary file.
The thread waits only once the file has reached its limit.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from math import inf
from time import monotonic
from typing import IO

from prefork.errors import ApplicationError, ClientGone, Disconnected
from prefork.http.exchange import failed
from prefork.runtime.calls import Call
from prefork.runtime.task import PARKED, Task
from prefork.runtime.threads import ThreadPool

MEMORY = 256 * 1024  # bytes that wait in memory, at most
DISK = 64 * 1024 * 1024  # bytes that wait, plus those in the file that are sent already: beyond these the thread waits


class ResponseBuffer:
    """The Chunks of the body that `call` produces. The call's side calls `put` and `end`, the leader all else.

    At most `memory` bytes wait in memory. Beyond `disk` bytes that wait, plus those in the file that are sent already,
    the thread waits. Where the call is abandoned, the response ends by ApplicationError after the pieces that have been
    put.
    """

    prompt = False  # PEP 3333: no head before the first piece
    trailers = ()  # PEP 3333 has none

    def __init__(self, pool: ThreadPool, call: Call, *, memory: int = MEMORY, disk: int = DISK) -> None:
        self._memory = memory
        self._disk = disk
        self.abandoned = False  # nobody will read the rest of the body
        self.whole = False  # the body is complete, and all of it is in memory
        self._pool = pool
        self._call = call
        self._lock = threading.Condition()
        self._pieces: list[bytes] = []
        self.size = 0  # bytes that wait
        self._file: IO[bytes] | None = None
        self._writing = False  # the thread writes to the file now; the leader may read the part that is written
        self._offset = 0  # where the bytes that wait begin in the file
        self._ended = False
        self._error: BaseException | None = None
        self._hungry: Task | None = None  # the task that waits for more

    # ---- the thread that makes the pieces

    def put(self, piece: bytes) -> bool:
        """Add a piece, and wait while the buffer is full. False: the body is abandoned. Raises OSError (disk full)."""
        if piece and not self.abandoned:
            self._add(piece)
            self._feed()
        if self.size > self._memory or not self._has_room():
            self._pool.step_down()  # another thread must send pieces meanwhile
            self._call.since = inf  # the call waits for its client, so it cannot become overdue
            with self._lock:
                self._lock.wait_for(self._has_room)
        self._call.since = monotonic()
        return not self.abandoned

    def _has_room(self) -> bool:
        """Whether `put` need not wait. The length of the file is bounded, not the bytes that wait in it: the file does
        not shrink, and a new one is begun once all of it is sent.
        """
        return self.abandoned or self._offset + self.size <= self._disk

    def _add(self, piece: bytes) -> None:
        with self._lock:
            if self.abandoned:
                return
            if self._file is None and self.size + len(piece) <= self._memory:
                self._pieces.append(piece)
                self.size += len(piece)
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed when it is empty)
            file, self._writing = self._file, True
        try:
            view = memoryview(piece)
            while view:  # without the lock, so that the leader need not wait for the disk
                view = view[file.write(view) :]
        finally:
            with self._lock:
                self._writing = False
                self.size += len(piece) - len(view)
                self._close_file()

    def end(self, error: BaseException | None) -> None:
        """The body is over. `error` is the exception that cut it short, or None; it is logged where the response, being
        abandoned, cannot raise it.
        """
        with self._lock:
            self._error = error
            self.whole = error is None and self._file is None and not self.abandoned
            self._ended = True
            self._confess()
        self._feed()

    def _confess(self) -> None:
        if self.abandoned and self._error is not None:
            if not _is_hangup(self._error):
                failed(self._call.what, self._error)
            self._error = None

    def _feed(self) -> None:
        task = self._hungry
        if task is not None:
            self._hungry = None
            self._pool.call_soon(task.wake)

    # ---- the leader

    def take(self) -> bytes:
        """All the bytes that wait in memory; if none do, up to `memory` bytes from the file; b"" if none wait there."""
        with self._lock:
            if self._pieces:
                data = b"".join(self._pieces)
                self._pieces = []
            elif self._file is not None:
                data = os.pread(self._file.fileno(), min(self._memory, self.size), self._offset)
                self._offset += len(data)
            else:
                return b""
            self.size -= len(data)
            self._close_file()
            self._lock.notify()
        return data

    def _close_file(self) -> None:
        """Close the file if it holds no bytes that wait and no thread writes to it. The caller holds the lock."""
        if self._file is not None and not self._writing and (self.abandoned or not self.size):
            file, self._file, self._offset = self._file, None, 0
            with suppress(OSError):
                file.close()

    def __aiter__(self) -> ResponseBuffer:
        return self

    async def __anext__(self) -> bytes:
        task = self._pool.loop.current
        while True:
            ended = self._ended  # read before `take`, as a last piece may come between the two
            data = self.take()
            if data:
                return data
            if ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            if self._call.abandoned:
                raise ApplicationError(f"no more of the response for {self._call.timeout:g} s")
            self._hungry = task
            if not self.size and not self._ended:
                await PARKED

    async def aclose(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Drop what waits, and what will be put: nobody will read the rest of the body."""
        with self._lock:
            self.abandoned = True
            self._pieces = []
            self.size = 0
            self._lock.notify()
            self._close_file()
            self._confess()


def _is_hangup(error: BaseException | None) -> bool:
    """Whether `error` was caused by ClientGone or Disconnected, which tell an application that its client is gone."""
    while error is not None and not isinstance(error, (ClientGone, Disconnected)):
        error = error.__cause__ or error.__context__
    return error is not None
