"""The buffer: pieces of a response body on their way from the thread that makes them to the task that sends them.

So that a client which reads slowly does not hold up the application, they wait in memory, then in a temporary file, and
only beyond that the thread waits too.
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

MEMORY = 256 * 1024  # bytes that wait in memory
DISK = 64 * 1024 * 1024  # bytes that wait in all, or lie in the file, sent or not, beyond which the thread waits


class ResponseBuffer:
    """The Chunks of what a call produces, in answer to its request. Its thread calls `put` and `end`, the leader all
    else. Where the call is abandoned, the response ends by ApplicationError after what has been put.
    """

    prompt = False  # PEP 3333: no head before the first piece

    def __init__(self, pool: ThreadPool, call: Call) -> None:
        self.abandoned = False  # nobody wants any more of it
        self.whole = False  # nothing is to come, and all of it is in memory
        self._pool = pool
        self._call = call
        self._lock = threading.Condition()
        self._pieces: list[bytes] = []
        self.size = 0  # of what waits
        self._file: IO[bytes] | None = None
        self._writing = False  # the thread is, and the file its own, though not what stands in it already
        self._offset = 0  # in the file, of what waits there
        self._ended = False
        self._error: BaseException | None = None
        self._hungry: Task | None = None  # waits for more

    # ---- the thread that makes the pieces

    def put(self, piece: bytes) -> bool:
        """Hand on a piece, and wait while there are too many. False: nobody wants it. Raises OSError (disk full)."""
        if piece and not self.abandoned:
            self._add(piece)
            self._feed()
        if self.size > MEMORY or not self._has_room():
            self._pool.step_down()  # let it be sent meanwhile
            self._call.since = inf  # it is the client that takes its time
            with self._lock:
                self._lock.wait_for(self._has_room)
        self._call.since = monotonic()
        return not self.abandoned

    def _has_room(self) -> bool:
        """The file does not shrink, but is begun anew once all of it is sent: it is its length that is bounded."""
        return self.abandoned or self._offset + self.size <= DISK

    def _add(self, piece: bytes) -> None:
        with self._lock:
            if self.abandoned:
                return
            if self._file is None and self.size + len(piece) <= MEMORY:
                self._pieces.append(piece)
                self.size += len(piece)
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed when it is empty)
            file, self._writing = self._file, True
        try:
            view = memoryview(piece)
            while view:  # outside the lock, which the leader would wait for
                view = view[file.write(view) :]
        finally:
            with self._lock:
                self._writing = False
                self.size += len(piece) - len(view)
                self._close_file()

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; `error` says why that is not the proper end. It is logged where nobody hears of it."""
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
        """What waits in memory, or else a part of what waits in the file."""
        with self._lock:
            if self._pieces:
                data = b"".join(self._pieces)
                self._pieces = []
            elif self._file is not None:
                data = os.pread(self._file.fileno(), min(MEMORY, self.size), self._offset)
                self._offset += len(data)
            else:
                return b""
            self.size -= len(data)
            self._close_file()
            self._lock.notify()
        return data

    def _close_file(self) -> None:
        """Close the file once nothing in it waits, and nobody writes to it. The lock is held."""
        if self._file is not None and not self._writing and (self.abandoned or not self.size):
            file, self._file, self._offset = self._file, None, 0
            with suppress(OSError):
                file.close()

    def __aiter__(self) -> ResponseBuffer:
        return self

    async def __anext__(self) -> bytes:
        task = self._pool.loop.current
        while True:
            ended = self._ended  # looked at before what it is the end of
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
        """Nobody wants any more of it."""
        with self._lock:
            self.abandoned = True
            self._pieces = []
            self.size = 0
            self._lock.notify()
            self._close_file()
            self._confess()


def _is_hangup(error: BaseException | None) -> bool:
    """It comes of what an application is told whose client is gone."""
    while error is not None and not isinstance(error, (ClientGone, Disconnected)):
        error = error.__cause__ or error.__context__
    return error is not None
