"""Representations: one version of one file, ready to be sent. Owns its bytes or its descriptor, and its answers.

A small file is held in memory, and sent in one call with its head. A large one is held open, and sent by sendfile(2).
"""

from __future__ import annotations

import email.utils
import functools
import os
import time

from prefork.http import ranges
from prefork.http.conditional import CONDITIONS, precondition, range_holds
from prefork.http.message import Fields, FileSegment, Repeatable, Request, Response, plain

SMALL = 32 * 1024  # bytes: up to this size, a copy costs less than sendfile(2); see tests/bench/files.py


class OpenFile:
    """A descriptor that several responses may share. It is closed when its last holder has released it."""

    __slots__ = ("_holders", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._holders = 1

    def hold(self) -> int:
        self._holders += 1
        return self.descriptor

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            os.close(self.descriptor)


class Representation:
    """One version of the open regular file `descriptor`, which this object takes over; `status` is its fstat.

    `kind` is its Content-Type, `extra` are further fields of 200, 206 and 304. Raises OSError where it cannot be read;
    the descriptor is closed then.
    """

    __slots__ = ("_extra", "_kind", "_unchanged", "_whole", "content", "etag", "file", "modified", "size")

    def __init__(self, descriptor: int, status: os.stat_result, kind: str, extra: Fields = ()) -> None:
        self.size = status.st_size
        self.etag, self.modified = _validators(status)
        self.file: OpenFile | None = None
        self.content: bytes | None = None
        if self.size > SMALL:
            self.file = OpenFile(descriptor)
        else:
            try:
                self.content = _read(descriptor, self.size)
            finally:
                os.close(descriptor)
        self._kind = ("Content-Type", kind)
        self._extra: Fields = (("Last-Modified", self.modified), ("ETag", self.etag), *extra)
        self._unchanged = Repeatable(304, self._extra)
        fields = (self._kind, *self._extra, ("Accept-Ranges", "bytes"))
        if self.file is None:
            self._whole = Repeatable(200, fields, self.content or b"")
        else:
            self._whole = Repeatable(200, fields, self._segment(0, self.size), hold=self.file.hold)

    @property
    def torn(self) -> bool:
        """Whether a small file has been cut short since the fstat. Then it is not the version that its validators name,
        and must not be kept.
        """
        return self.content is not None and len(self.content) != self.size

    def answer(self, request: Request, valid: float, most: int) -> Response:
        """The answer to GET or HEAD. A 200 or 304 may be repeated until `valid` (monotonic seconds). A request for more
        than `most` ranges gets the whole file.
        """
        if self.torn:
            return Response(200, (self._kind,), self.content or b"")
        fields = request.headers.fields
        if CONDITIONS.isdisjoint(fields):
            return self._all(valid)
        status = precondition(fields, self.etag, self.modified)
        if status == 304:
            self._unchanged.valid = valid
            return self._unchanged
        if status == 412:
            return plain(412)
        if "range" in fields and request.method == "GET" and range_holds(fields, self.etag):
            wanted = ranges.parse(fields["range"], self.size, most)
            if wanted is not None:
                return self._some(wanted)
        return self._all(valid)

    def _all(self, valid: float) -> Response:
        if self.file is not None:
            self.file.hold()
        self._whole.valid = valid
        return self._whole

    def _some(self, wanted: list[ranges.Range]) -> Response:
        if not wanted:
            return plain(416, ("Content-Range", f"bytes */{self.size}"), ("Accept-Ranges", "bytes"))
        if len(wanted) > 1:
            return self._several(ranges.Multipart(wanted, self.size, self._kind[1]))
        offset, count = wanted[0]
        fields = (self._kind, ("Content-Range", ranges.content_range(offset, count, self.size)), *self._extra)
        if self.file is None:
            return Response(206, fields, (self.content or b"")[offset : offset + count])
        self.file.hold()
        return Response(206, fields, self._segment(offset, count))

    def _several(self, multipart: ranges.Multipart) -> Response:
        fields = (("Content-Type", multipart.kind), *self._extra)
        if self.file is None:
            return Response(206, fields, multipart.of(self.content or b""))
        fields = (*fields, ("Content-Length", str(multipart.length)))
        return Response(206, fields, ranges.Parts(multipart, self.file.hold(), self.file.release))

    def _segment(self, offset: int, count: int) -> FileSegment:
        """A part of the large file, as a body. The caller must hold the file for it."""
        assert self.file is not None
        return FileSegment(self.file.descriptor, offset, count, self.file.release)

    def retire(self) -> None:
        """Release the file, and let no answer be repeated any more. Responses under way are not disturbed."""
        self._whole.retire()
        self._unchanged.retire()
        if self.file is not None:
            self.file.release()
            self.file = None


def _read(file: int, size: int) -> bytes:
    """`size` bytes from the start of `file`, fewer only if it ends before. It takes one system call as a rule."""
    content = os.read(file, size)
    while len(content) < size and (more := os.read(file, size - len(content))):
        content += more
    return content


def _validators(status: os.stat_result) -> tuple[str, str]:
    """ETag and Last-Modified.

    A strong ETag must change whenever the content does (RFC 9110 §8.8.1). Besides mtime and size, it has the inode in
    it: image builders set every mtime alike, and a new file of the same size would pass for the old one. It also has
    the ctime: `cp -p` into a file that exists sets its mtime to that of the source. Two writes within one tick of the
    kernel's clock may still look like one. The price is that hosts which share a name do not share tags. But a missed
    304 costs only bytes, and a wrong one shows a stale page.
    """
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}-{status.st_ctime_ns:x}"'
    # Never later than the Date of this answer (RFC 9110 §8.8.2.1), and never before 1970.
    return etag, _http_date(max(0, int(min(status.st_mtime, time.time()))))


@functools.lru_cache(maxsize=4096)
def _http_date(seconds: int) -> str:
    return email.utils.formatdate(seconds, usegmt=True)
