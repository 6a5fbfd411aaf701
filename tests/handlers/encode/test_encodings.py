"""Encodings: what each makes can be decoded, all of it, and of what has been flushed all so far."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from prefork.handlers.encode import encodings
from prefork.handlers.encode.encodings import PACKAGES, Encoding, choose, gzip

TEXT = b"".join(b"<p>line %d of a text that repeats itself</p>\n" % number for number in range(2000))


def encoding(name: str, level: int = 4) -> Encoding:
    if PACKAGES[name]:
        pytest.importorskip(PACKAGES[name])
    (found,) = choose([name], level)
    return found


def decoder(name: str) -> Callable[[bytes], bytes]:
    """What decodes piece by piece."""
    if name == "gzip":
        return zlib.decompressobj(31).decompress
    package: Any = importlib.import_module(PACKAGES[name])
    if name == "br":
        return lambda data: _unbrotli(package.Decompressor(), data)
    return lambda data: bytes(package.ZstdDecompressor().decompressobj().decompress(data))


def _unbrotli(decompressor: Any, data: bytes) -> bytes:
    """It gives 32 KiB at a time."""
    text = piece = decompressor.process(data)
    while piece and not decompressor.is_finished():
        piece = decompressor.process(b"")
        text += piece
    return bytes(text)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("level", [1, 4, 9])
@pytest.mark.parametrize("data", [b"", b"x", TEXT], ids=["empty", "byte", "text"])
def test_what_is_encoded_at_once_is_decoded(name: str, level: int, data: bytes) -> None:
    encoded = encoding(name, level).whole(data)
    assert decoder(name)(encoded) == data
    assert len(encoded) < max(len(data) / 5, 32)


@pytest.mark.parametrize("name", PACKAGES)
def test_what_was_flushed_can_be_decoded_without_the_rest(name: str) -> None:
    encoder = encoding(name).encoder()
    sent = b""
    for number in range(3):
        sent += encoder.add(TEXT) + encoder.add(b"and this") + encoder.flush()
        assert decoder(name)(sent) == (TEXT + b"and this") * (number + 1)
    sent += encoder.add(b"the end") + encoder.finish()
    assert decoder(name)(sent) == (TEXT + b"and this") * 3 + b"the end"


@pytest.mark.parametrize("name", PACKAGES)
def test_several_bodies_at_once_do_not_meet(name: str) -> None:
    one, other = encoding(name), [b"", b""]
    encoders = [one.encoder(), one.encoder()]
    for piece in (b"a", b"b"):
        assert one.whole(TEXT)
        for number, encoder in enumerate(encoders):
            other[number] += encoder.add(piece * (number + 1))
    for number, encoder in enumerate(encoders):
        assert decoder(name)(other[number] + encoder.finish()) == b"a" * (number + 1) + b"b" * (number + 1)


def test_a_higher_level_is_smaller() -> None:
    for name in PACKAGES:
        assert len(encoding(name, 9).whole(TEXT)) < len(encoding(name, 1).whole(TEXT))


def test_a_small_window_is_gzip_as_well() -> None:
    encoder = gzip(4, window=12, memory=6).encoder()
    assert decoder("gzip")(encoder.add(TEXT) + encoder.finish()) == TEXT


def test_what_is_not_installed_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings.importlib.util, "find_spec", lambda name: None)
    assert [found.name for found in choose(["zstd", "br", "gzip"], 4)] == ["gzip"]
    assert [encodings.missing(name) for name in ("zstd", "br", "gzip")] == ["zstandard", "brotli", ""]


def test_they_come_in_the_order_that_is_asked_for() -> None:
    for package in filter(None, PACKAGES.values()):
        pytest.importorskip(package)
    names = ["gzip", "br", "zstd"]
    assert [found.name for found in choose(names, 4)] == names
