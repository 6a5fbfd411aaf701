"""write(), PEP 3333's imperative way out: in its place among what is returned, and beyond memory on disk."""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.handlers.exchange import assert_500, call, exchange, parse, request, wsgi
from tests.handlers.file_trees import descriptors, descriptors_at_rest

Environ = dict[str, Any]
Start = Callable[..., Any]


def test_what_is_written_comes_before_what_is_returned() -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c", b"d"]

    assert call(application).body == b"abcd"


@pytest.mark.parametrize("length", [(), (("Content-Length", "2"),)])
@pytest.mark.parametrize("rest", [[], [b""], (), iter(())], ids=["[]", "[b'']", "()", "iterator"])
def test_all_may_be_written_and_nothing_returned(length: Any, rest: Any) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", list(length))(b"ab")
        return rest

    assert call(application).body == b"ab"


def test_an_iterable_may_write() -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        for piece in (b"a", b"b", b"c"):
            write(piece.upper())
            yield piece
        write(b"D")

    assert call(application).body == b"AaBbCcD"


@pytest.mark.parametrize("piece", ["text", 7, None, ["x"]])
def test_only_bytes_can_be_written(piece: Any, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            write(piece)
        except Exception as error:
            refused.append(error)
            raise
        return []

    assert_500(application, caplog, f"{type(piece).__name__}, not bytes")
    assert refused


def written(environ: Environ, start_response: Start) -> Iterator[bytes]:
    """32 MiB by write(), of which no two KiB are alike, and a little more."""
    write = start_response("200 OK", [])
    for number in range(32 << 10):
        write(number.to_bytes(4, "big") * 256)
    return iter([b"a", b"b"])


@pytest.mark.parametrize("pinned", [False, True])
def test_what_is_written_beyond_memory_waits_on_disk(pinned: bool) -> None:
    held: list[int] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        tracemalloc.start()
        try:
            return written(environ, start_response)
        finally:
            held.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    answer = parse(exchange(wsgi(application, pinned=pinned), request("/")))
    assert answer.body == b"".join(number.to_bytes(4, "big") * 256 for number in range(32 << 10)) + b"ab"
    assert held[0] < 4 << 20


def replacing(environ: Environ, start_response: Start) -> list[bytes]:
    written(environ, start_response)
    try:
        raise ValueError
    except ValueError:
        start_response("503 Sorry", [], sys.exc_info())
    return [b"sorry"]


def failing(environ: Environ, start_response: Start) -> list[bytes]:
    written(environ, start_response)
    raise ValueError


def lying(environ: Environ, start_response: Start) -> Any:
    written(environ, start_response)
    return None


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(("application", "status"), [(replacing, 503), (failing, 500), (lying, 500), (written, 200)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_was_written_on_disk_is_left_nowhere(
    application: Callable[..., Any], status: int, method: str, pinned: bool
) -> None:
    before = descriptors_at_rest()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer = parse(exchange(wsgi(application, pinned=pinned), request("/", method=method)), method)
    assert answer.status == status
    assert (answer.body == b"sorry") == (application is replacing and method == "GET")
    assert not [warning for warning in caught if warning.category is ResourceWarning]
    assert descriptors() == before
