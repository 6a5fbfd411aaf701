"""wsgi.file_wrapper: real files by sendfile(2), all else by reading it; from where it stands, as far as announced."""

# ruff: noqa: SIM115 (it is the server that closes what is opened here)

from __future__ import annotations

import bz2
import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from prefork.handlers.apps.wsgi.application import FileWrapper
from tests.handlers.exchange import assert_500, call, exchange, parse, request, wsgi
from tests.handlers.files.file_trees import descriptors, descriptors_at_rest

Environ = dict[str, Any]
Start = Callable[..., Any]
CONTENT = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors_at_rest()
    yield
    assert descriptors() == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def sent_files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, count) of each body that goes out by sendfile."""
    sent: list[tuple[int, int]] = []
    send_file = os.sendfile

    def noting(to: int, file: int, offset: int, count: int) -> int:
        # else the rest of what did not go out at once
        if not sent or sum(sent[-1]) != offset + count or sent[-1] == (offset, count):
            sent.append((offset, count))
        return send_file(to, file, offset, count)

    monkeypatch.setattr(os, "sendfile", noting)
    return sent


def sending(open_file: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK") -> Callable[..., Any]:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response(status, list(headers))
        return environ["wsgi.file_wrapper"](open_file())

    return application


def at(file: IO[bytes], position: int) -> IO[bytes]:
    file.seek(position)
    return file


REAL: dict[str, Callable[[Path], Any]] = {
    "buffered": lambda path: open(path, "rb"),
    "unbuffered": lambda path: open(path, "rb", buffering=0),
    "read and write": lambda path: open(path, "r+b"),
    "a small buffer": lambda path: open(path, "rb", buffering=7),
}


@pytest.mark.parametrize("opened", REAL.values(), ids=REAL)
@pytest.mark.parametrize("position", [0, 1, 1000, len(CONTENT) - 1])
def test_a_real_file_goes_out_by_sendfile_from_where_it_stands(
    opened: Callable[[Path], Any], position: int, path: Path, sent_files: list[tuple[int, int]]
) -> None:
    answer = call(sending(lambda: at(opened(path), position)))
    assert answer.body == CONTENT[position:]
    assert answer.headers["Content-Length"] == str(len(CONTENT) - position)
    assert sent_files == [(position, len(CONTENT) - position)]


def test_what_has_been_read_through_the_buffer_is_not_sent_again(path: Path, sent_files: list[tuple[int, int]]) -> None:
    def opened() -> IO[bytes]:
        file = open(path, "rb")
        assert file.read(5) == CONTENT[:5]
        return file

    assert call(sending(opened)).body == CONTENT[5:]
    assert sent_files == [(5, len(CONTENT) - 5)]


def test_a_smaller_content_length_ends_it_earlier(path: Path, sent_files: list[tuple[int, int]]) -> None:
    raw = exchange(wsgi(sending(lambda: at(open(path, "rb"), 10), ("Content-Length", "20"))), request("/") * 2)
    answer = parse(raw)
    assert (answer.body, parse(answer.rest).body) == (CONTENT[10:30], CONTENT[10:30])
    assert sent_files == [(10, 20), (10, 20)]


def test_a_larger_content_length_is_500(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(sending(lambda: open(path, "rb"), ("Content-Length", str(len(CONTENT) + 1))), caplog, "Content-Length")


def test_a_response_to_http_1_0_keeps_its_connection_where_the_length_is_known(path: Path) -> None:
    sent = request("/", "Connection: keep-alive", version="HTTP/1.0") * 2
    answer = parse(exchange(wsgi(sending(lambda: open(path, "rb"))), sent))
    assert answer.body == parse(answer.rest).body == CONTENT


class Subclass(io.FileIO):
    """It may read otherwise than its descriptor does."""


NOT_ON_DISK: dict[str, Callable[[Path], Any]] = {
    "BytesIO": lambda path: io.BytesIO(CONTENT),
    "gzip": lambda path: gzip.open(packed(path, gzip.compress)),
    "a reader on gzip": lambda path: io.BufferedReader(gzip.open(packed(path, gzip.compress))),
    "bz2": lambda path: bz2.open(packed(path, bz2.compress)),
    "a reader on bz2": lambda path: io.BufferedReader(bz2.open(packed(path, bz2.compress))),
    "a subclass": Subclass,
    "a pipe": lambda path: piped(CONTENT[:1000]),
    "only read": lambda path: OnlyRead(CONTENT),
    "a named temporary file": lambda path: temporary(tempfile.NamedTemporaryFile()),
    "a spooled temporary file": lambda path: temporary(tempfile.SpooledTemporaryFile()),
}


def packed(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    other = path.with_suffix(".packed")
    other.write_bytes(compress(CONTENT))
    return other


def piped(content: bytes) -> IO[bytes]:
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return open(reader, "rb")


def temporary(file: Any) -> Any:
    file.write(CONTENT)
    file.seek(0)
    return file


class OnlyRead:
    """The least that PEP 3333 asks for: no close, no fileno."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


@pytest.mark.parametrize("opened", NOT_ON_DISK.values(), ids=NOT_ON_DISK)
def test_what_only_looks_like_a_file_is_read(
    opened: Callable[[Path], Any], path: Path, sent_files: list[tuple[int, int]]
) -> None:
    body = call(sending(lambda: opened(path))).body
    assert body == CONTENT[: len(body)]
    assert len(body) in (1000, len(CONTENT))
    assert sent_files == []


@pytest.mark.parametrize("opened", NOT_ON_DISK.values(), ids=NOT_ON_DISK)
def test_content_length_ends_these_too(opened: Callable[[Path], Any], path: Path) -> None:
    raw = exchange(wsgi(sending(lambda: opened(path), ("Content-Length", "20"))), request("/") * 2)
    answer = parse(raw)
    assert (answer.body, parse(answer.rest).body) == (CONTENT[:20], CONTENT[:20])


@pytest.mark.parametrize("headers", [[], [("Content-Length", "0")]])
def test_an_empty_file_is_an_empty_body(headers: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    answer = call(sending(lambda: open(tmp_path / "empty", "rb"), *headers))
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")


def test_a_file_at_its_end_is_an_empty_body(path: Path) -> None:
    assert call(sending(lambda: at(open(path, "rb"), len(CONTENT) + 5))).body == b""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_a_file_that_says_it_is_empty_and_is_not_is_read() -> None:
    assert b"Pid:" in call(sending(lambda: open("/proc/self/status", "rb"))).body


def test_a_text_file_is_500(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(sending(lambda: open(path, encoding="latin-1")), caplog, "yielded str, not bytes")


def test_a_closed_file_is_500(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def closed() -> IO[bytes]:
        file = open(path, "rb")
        file.close()
        return file

    assert_500(sending(closed), caplog, "closed file")


def test_without_start_response_it_is_500(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(lambda environ, start: environ["wsgi.file_wrapper"](open(path, "rb")), caplog, "start_response")


def test_what_was_written_comes_first(path: Path, sent_files: list[tuple[int, int]]) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", [])(b"before ")
        return environ["wsgi.file_wrapper"](open(path, "rb"))

    assert call(application).body == b"before " + CONTENT
    assert sent_files == []


def test_middleware_may_iterate_it_and_the_block_size_counts(path: Path) -> None:
    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", [])
        wrapper = environ["wsgi.file_wrapper"](open(path, "rb"), 100_000)
        yield from (str(len(block)).encode() + b"," for block in wrapper)
        wrapper.close()

    assert call(application).body == b"100000,100000,56000,"


# --- its close ---


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "complete": ({}, {}),
    "head": ({}, {"method": "HEAD"}),
    "no content": ({"status": "204 No Content"}, {}),
    "not modified": ({"status": "304 Not Modified"}, {}),
    "invalid head": ({"headers": [("X-A", "1\r\n2")]}, {}),
    "invalid length": ({"headers": [("Content-Length", str(len(CONTENT) + 1))]}, {}),
    "no start_response": ({"status": None}, {}),
}


@pytest.mark.parametrize(("said", "asked"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("on_disk", [True, False], ids=["on disk", "in memory"])
@pytest.mark.parametrize("failing", [False, True], ids=["", "failing"])
def test_close_is_called_once(
    said: dict[str, Any], asked: dict[str, Any], on_disk: bool, failing: bool, path: Path
) -> None:
    closed: list[Any] = []

    def application(environ: Environ, start_response: Start) -> Any:
        file: Any = open(path, "rb") if on_disk else io.BytesIO(CONTENT)
        close = file.close

        class Wrapper(FileWrapper):
            def close(self) -> None:
                closed.append(environ["wsgi.input"].closed)
                close()
                if failing:
                    raise SystemExit("close has failed")

        assert issubclass(Wrapper, environ["wsgi.file_wrapper"])
        wrapper = Wrapper(file)
        vars(wrapper).pop("close")  # the file's own, which hides this one
        if (status := said.get("status", "200 OK")) is not None:
            start_response(status, said.get("headers", []))
        return wrapper

    raw = exchange(wsgi(application), request("/", method=asked.get("method", "GET")) * 2)
    assert closed == [True] * raw.count(b"HTTP/1.1 ")
    assert closed


def test_close_is_called_once_when_the_client_hangs_up(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as large:
        large.truncate(64 << 20)
    files: list[IO[bytes]] = []

    def opened() -> IO[bytes]:
        files.append(open(tmp_path / "large", "rb"))
        return files[0]

    exchange(wsgi(sending(opened)), request("/"), hang_up_after=1000)
    assert [file.closed for file in files] == [True]


def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(CONTENT)

    def application(environ: Environ, start_response: Start) -> Any:
        start_response("200 OK", [])
        wrapper = environ["wsgi.file_wrapper"](open(path, "rb"))
        segment = wrapper.segment

        def shrinking(*arguments: Any) -> Any:
            found = segment(*arguments)
            os.truncate(path, 1000)
            return found

        wrapper.segment = shrinking
        return wrapper

    raw = exchange(wsgi(application), request("/") * 2)
    assert raw.endswith(CONTENT[:1000])  # and no second answer
    assert "cut short" in caplog.text
