"""Content encodings: gzip from the standard library; br and zstd where their packages are installed. Knows no HTTP
messages.

A package is imported when its encoding is made, so that a server which encodes nothing does not load it.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PACKAGES = {"zstd": "zstandard", "br": "brotli", "gzip": ""}  # by encoding, preferred ones first; "": none is needed

_GZIP = 16  # added to the window's bits: a gzip header and trailer (zlib's manual, deflateInit2)


class Encoder(Protocol):
    """Encodes one body. The results of all calls, in their order, are the encoded body; b"" where it waits for more."""

    def add(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes:
        """The rest of the output for the data so far, so that the receiver can decode all of that data."""

    def finish(self) -> bytes: ...


@dataclass(frozen=True)
class Encoding:
    """`name` is the value of Content-Encoding. `whole` encodes a body at once; `encoder` makes an Encoder."""

    name: str
    whole: Callable[[bytes], bytes]
    encoder: Callable[[], Encoder]


def missing(name: str) -> str:
    """The package that the encoding needs and that is not installed, or ""."""
    package = PACKAGES[name]
    return package if package and importlib.util.find_spec(package) is None else ""


def choose(names: Sequence[str], level: int) -> tuple[Encoding, ...]:
    """The encodings with these names, in this order, except those whose package is missing. `level` is 1 to 9."""
    makers = {"gzip": gzip, "br": _brotli, "zstd": _zstd}
    return tuple(makers[name](level) for name in names if not missing(name))


def gzip(level: int, window: int = 15, memory: int = 8) -> Encoding:
    """The gzip encoding. An encoder takes 2 ** (window + 2) + 2 ** (memory + 9) bytes of memory: 256 KiB by default."""
    return Encoding(
        "gzip",
        lambda data: zlib.compress(data, level, window + _GZIP),
        lambda: _Zlib(zlib.compressobj(level, zlib.DEFLATED, window + _GZIP, memory)),
    )


def _brotli(level: int) -> Encoding:
    brotli = importlib.import_module("brotli")
    return Encoding(
        "br",
        lambda data: bytes(brotli.compress(data, quality=level)),
        lambda: _Brotli(brotli.Compressor(quality=level)),
    )


def _zstd(level: int) -> Encoding:
    zstandard = importlib.import_module("zstandard")
    return Encoding(
        "zstd",
        zstandard.ZstdCompressor(level).compress,  # one compressor for all bodies, one at a time: it keeps its memory
        lambda: _Zstd(zstandard, level),
    )


class _Zlib:
    def __init__(self, object: Any) -> None:
        self.add = object.compress
        self._flush = object.flush

    def flush(self) -> bytes:
        return bytes(self._flush(zlib.Z_SYNC_FLUSH))

    def finish(self) -> bytes:
        return bytes(self._flush())


class _Brotli:
    def __init__(self, object: Any) -> None:
        self.add = object.process
        self.flush = object.flush
        self.finish = object.finish


class _Zstd:
    def __init__(self, zstandard: Any, level: int) -> None:
        object = zstandard.ZstdCompressor(level).compressobj()
        self.add = object.compress
        self._flush = object.flush
        self._block = zstandard.COMPRESSOBJ_FLUSH_BLOCK

    def flush(self) -> bytes:
        return bytes(self._flush(self._block))

    def finish(self) -> bytes:
        return bytes(self._flush())
