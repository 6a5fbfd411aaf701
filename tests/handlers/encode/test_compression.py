"""Compression: which responses are encoded, what their heads say, and how those are sent that come in pieces."""

from __future__ import annotations

import http.client
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from prefork.handlers.apps.interface import Interface
from prefork.handlers.encode.compression import ENTRY, KEPT, Compression, EncodedCache, Key
from prefork.handlers.encode.encoded_body import SLICE, EncodedBody
from prefork.http.message import Fields, Handler, Request, Response
from prefork.settings.schema import Compression as Settings
from prefork.settings.schema import Route
from tests.handlers.exchange import Answer, exchange, meet, parse, request, routed
from tests.handlers.files.file_trees import ask, serve

TEXT = b"".join(b"<p>line %d of a text that repeats itself</p>\n" % number for number in range(100))
HTML = ("Content-Type", "text/html; charset=utf-8")
GZIP = "Accept-Encoding: gzip"
NOISE = os.urandom(4096)


def encoded(answer: Response | None = None, *, keeps: bool = False, **settings: Any) -> Handler:
    """A handler that gives this answer, with gzip around it."""
    handler = giving(answer or Response(200, (HTML,), TEXT))
    return Compression(Settings(**{"codings": ("gzip",), **settings})).around(handler, keeps)


def giving(response: Response) -> Handler:
    async def handler(asked: Request) -> Response:
        return response

    return handler


def get(handler: Handler, *fields: str, method: str = "GET", **how: Any) -> Answer:
    return parse(exchange(handler, request("/", *(fields or (GZIP,)), method=method, **how)), method)


def plain(answer: Answer) -> bytes:
    """The body, decoded by what its head says."""
    assert answer.headers["Content-Encoding"] in (None, "gzip")
    return zlib.decompress(answer.body, 31) if answer.headers["Content-Encoding"] else answer.body


def is_encoded(answer: Answer) -> bool:
    return answer.headers["Content-Encoding"] is not None


# Which


def test_a_response_is_encoded_for_who_accepts_it_and_varies_for_everybody() -> None:
    answer = get(encoded())
    assert (answer.status, answer.headers["Content-Encoding"], plain(answer)) == (200, "gzip", TEXT)
    assert int(answer.headers["Content-Length"]) == len(answer.body) < len(TEXT) / 5
    for field_ in ("Accept-Encoding: identity", "Accept-Encoding: br;q=1", "Accept-Encoding: gzip;q=0", "X: y"):
        answer = get(encoded(), field_)
        assert (is_encoded(answer), answer.body, answer.headers["Vary"]) == (False, TEXT, "Accept-Encoding")


def test_the_coding_is_the_one_that_the_client_prefers_and_then_we() -> None:
    for package in ("brotli", "zstandard"):
        pytest.importorskip(package)
    answers = {
        "gzip, deflate, br, zstd": "zstd",
        "gzip, deflate, br": "br",
        "gzip;q=1, br;q=0.5": "gzip",
        "*": "zstd",
        "identity, *;q=0.1": None,
    }
    handler = encoded(codings="auto")
    found = {accept: get(handler, f"Accept-Encoding: {accept}").headers["Content-Encoding"] for accept in answers}
    assert found == answers
    assert get(encoded(codings=("gzip", "br")), "Accept-Encoding: br, gzip").headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    "kind", ["text/html", "TEXT/CSS", "text/plain;charset=utf-8", "application/json", "image/svg+xml"]
)
def test_text_of_any_kind_is_encoded(kind: str) -> None:
    assert is_encoded(get(encoded(Response(200, (("content-type", kind),), TEXT))))


@pytest.mark.parametrize("kind", ["image/png", "video/mp4", "application/zip", "application/octet-stream", "text", ""])
def test_what_is_no_text_is_left_alone_and_does_not_vary(kind: str) -> None:
    answer = get(encoded(Response(200, (("Content-Type", kind),), TEXT)))
    assert (is_encoded(answer), answer.headers["Vary"]) == (False, None)


def test_the_types_are_the_operators_choice() -> None:
    png = Response(200, (("Content-Type", "image/png"),), TEXT)
    assert is_encoded(get(encoded(png, types=("image/*",))))
    assert is_encoded(get(encoded(png, types=("*",))))
    assert not is_encoded(get(encoded(png, types=("image/p", "mage/png", "image.png"))))
    assert not is_encoded(get(encoded(types=())))


def test_what_is_too_small_is_left_alone() -> None:
    sizes = {size: get(encoded(Response(200, (HTML,), b"x" * size))) for size in (0, 1023, 1024)}
    assert [is_encoded(answer) for answer in sizes.values()] == [False, False, True]
    assert sizes[1023].headers["Vary"] is None
    assert is_encoded(get(encoded(Response(200, (HTML,), b"x" * 100), min_size=0)))


def test_what_does_not_get_smaller_is_left_alone() -> None:
    answer = get(encoded(Response(200, (HTML,), NOISE)))
    assert (is_encoded(answer), answer.body, answer.headers["Vary"]) == (False, NOISE, "Accept-Encoding")


@pytest.mark.parametrize(
    "said",
    [
        ("Content-Encoding", "br"),
        ("content-encoding", "identity"),
        ("Content-Range", "bytes 0-99/200"),
        ("Cache-Control", "public, No-Transform"),
        ("Content-Digest", "sha-256=:x:"),
        ("Repr-Digest", "sha-256=:x:"),
    ],
)
def test_what_would_not_be_true_any_more_is_left_alone(said: tuple[str, str]) -> None:
    answer = get(encoded(Response(200, (HTML, said), TEXT)))
    assert (answer.body, answer.headers["Content-Encoding"]) == (TEXT, said[1] if "ncoding" in said[0] else None)


@pytest.mark.parametrize("status", [204, 205, 206, 304])
def test_a_part_and_what_has_no_body_is_left_alone(status: int) -> None:
    answer = get(encoded(Response(status, (HTML,), TEXT)))
    assert not is_encoded(answer)


@pytest.mark.parametrize("status", [200, 201, 301, 404, 500])
def test_any_other_status_is_encoded_and_keeps_its_reason(status: int) -> None:
    answer = get(encoded(Response(status, (HTML,), TEXT, "Because")))
    assert (answer.status, answer.reason, plain(answer)) == (status, "Because", TEXT)


def test_fields_that_are_none_are_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = [("Content-Type", "text/html"), ("X", None)]
    assert get(encoded(Response(200, wrong, TEXT))).status == 500
    assert "a response field is not a pair of str: 'X'" in caplog.text


@pytest.mark.parametrize("length", ["5", "99999"])
def test_a_length_that_is_not_true_is_an_error_as_ever(length: str, caplog: pytest.LogCaptureFixture) -> None:
    assert get(encoded(Response(200, (HTML, ("Content-Length", length)), TEXT))).status == 500
    assert f"Content-Length is {length}, but the body has {len(TEXT)} bytes" in caplog.text


# What the head says


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        (None, "Accept-Encoding"),
        ("Cookie", "Cookie, Accept-Encoding"),
        ("Cookie, accept-encoding", "Cookie, accept-encoding"),
        ("*", "*"),
        ("X-Accept-Encoding", "X-Accept-Encoding, Accept-Encoding"),
    ],
)
def test_vary_is_added_to_what_it_says(said: str | None, becomes: str) -> None:
    fields = (HTML, ("vary", said)) if said else (HTML,)
    for accept in (GZIP, "X: y"):
        assert get(encoded(Response(200, fields, TEXT)), accept).headers.get_all("Vary") == [becomes]


def test_an_etag_becomes_a_weak_one_of_its_coding_and_ranges_are_no_longer_offered() -> None:
    fields = (HTML, ("ETag", '"v1"'), ("Accept-Ranges", "bytes"), ("Content-Length", str(len(TEXT))), ("X", "y"))
    answer = get(encoded(Response(200, fields, TEXT)))
    assert (answer.headers["ETag"], answer.headers["Accept-Ranges"], answer.headers["X"]) == ('W/"v1-gzip"', None, "y")
    unencoded = get(encoded(Response(200, fields, TEXT)), "X: y")
    assert (unencoded.headers["ETag"], unencoded.headers["Accept-Ranges"]) == ('"v1"', "bytes")
    assert get(encoded(Response(200, (HTML, ("ETag", 'W/"v1"')), TEXT))).headers["ETag"] == 'W/"v1-gzip"'
    assert get(encoded(Response(200, (HTML, ("ETag", "none")), TEXT))).headers["ETag"] == "none"


def revalidating(etag: str) -> tuple[Handler, list[str]]:
    """An application's way with If-None-Match, compressed, and what it has seen of that."""
    seen = []

    async def handler(asked: Request) -> Response:
        known = asked.headers.get("if-none-match")
        seen.append(known)
        tags = (("ETag", etag),)
        if known == "*" or etag.removeprefix("W/") in known:
            return Response(304, tags)
        return Response(200, (HTML, *tags), TEXT)

    return Compression(Settings(codings=("gzip",))).around(handler, keeps=False), seen


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"'])
def test_a_encoded_response_is_known_again_by_its_own_tag_and_only_to_who_accepts_its_coding(etag: str) -> None:
    handler, seen = revalidating(etag)
    answers = {
        (GZIP, 'W/"v1-gzip"'): (304, 'W/"v1-gzip"'),
        (GZIP, '"a", W/"v1-gzip", "b"'): (304, 'W/"v1-gzip"'),
        (GZIP, etag): (304, etag),
        (GZIP, "*"): (304, etag),
        (GZIP, 'W/"v1-br"'): (200, 'W/"v1-gzip"'),
        (GZIP, 'W/"v2-gzip"'): (200, 'W/"v1-gzip"'),
        ("Accept-Encoding: identity", 'W/"v1-gzip"'): (200, etag),
        ("Accept-Encoding: identity", etag): (304, etag),
    }
    for (accept, known), expected in answers.items():
        answer = get(handler, accept, f"If-None-Match: {known}")
        assert (answer.status, answer.headers["ETag"]) == expected, (accept, known)
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert answer.status == 304 or plain(answer) == TEXT
    assert seen[1] == 'W/"v1", "a", W/"v1-gzip", "b"'


def test_an_application_gets_to_see_the_tag_that_it_knows() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        known = environ.get("HTTP_IF_NONE_MATCH", "")
        start_response("304 Not Modified" if 'W/"v1"' in known else "200 OK", [HTML, ("ETag", 'W/"v1"')])
        return [] if 'W/"v1"' in known else [TEXT]

    route = Route(wsgi="its:application", compression=True)
    encodings = Settings(codings=("gzip",))

    def got(*fields: str) -> tuple[int, str]:
        handler = routed([route], load=lambda target, key: (Interface.WSGI, application), compression=encodings)
        answer = get(handler, *fields)
        return answer.status, answer.headers["ETag"]

    for _ in range(2):
        assert got(GZIP) == (200, 'W/"v1-gzip"')
        assert got(GZIP, 'If-None-Match: W/"v1-gzip"') == (304, 'W/"v1-gzip"')
        assert got("Accept-Encoding: identity", 'If-None-Match: W/"v1-gzip"') == (200, 'W/"v1"')


def test_a_handler_that_fails_at_a_known_tag_is_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(asked: Request) -> Response:
        raise ValueError("oh")

    failing = Compression(Settings(codings=("gzip",))).around(handler, keeps=False)
    assert get(failing, GZIP, 'If-None-Match: W/"v1-gzip"').status == 500
    assert "ValueError('oh')" in caplog.text


@pytest.mark.parametrize(
    ("kind", "varies"),
    [("text/html", True), ("multipart/byteranges; boundary=x", True), ("image/png", False), ("", False)],
)
def test_a_part_varies_as_the_whole_does(kind: str, varies: bool) -> None:
    fields = (("Content-Type", kind), ("Content-Range", "bytes 0-4499/9000"))
    answer = get(encoded(Response(206, fields, TEXT)))
    assert (is_encoded(answer), answer.body, answer.headers["Vary"]) == (
        False,
        TEXT,
        "Accept-Encoding" if varies else None,
    )


def test_a_handler_may_give_the_same_response_again() -> None:
    handler = encoded()
    assert [is_encoded(get(handler, accept)) for accept in (GZIP, "X: y", GZIP)] == [True, False, True]


def test_head_says_of_the_coding_what_get_says() -> None:
    sized = (HTML, ("Content-Length", str(len(TEXT))), ("ETag", '"v1"'))
    for body in (TEXT, b""):
        get_, head = get(encoded(Response(200, sized, TEXT))), get(encoded(Response(200, sized, body)), method="HEAD")
        for name in ("Content-Encoding", "ETag", "Vary", "Content-Type"):
            assert head.headers[name] == get_.headers[name], name
        assert head.headers["Content-Length"] == (get_.headers["Content-Length"] if body else None)
    small = (HTML, ("Content-Length", "10"))
    assert get(encoded(Response(200, small, b"")), method="HEAD").headers["Content-Length"] == "10"
    unknown = get(encoded(Response(200, (HTML,), b"")), method="HEAD")
    assert (is_encoded(unknown), unknown.headers["Vary"]) == (False, "Accept-Encoding")


def test_head_says_what_get_says_of_what_does_not_get_smaller() -> None:
    noise = (HTML, ("ETag", '"v1"'))
    get_, head = (get(encoded(Response(200, noise, NOISE)), method=method) for method in ("GET", "HEAD"))
    for name in ("Content-Encoding", "Content-Length", "ETag", "Vary"):
        assert head.headers[name] == get_.headers[name], name
    assert (is_encoded(head), head.body) == (False, b"")


def test_http_1_0_gets_a_encoded_stream_to_the_end_of_the_connection() -> None:
    answer = get(encoded(Response(200, (HTML,), Pieces(TEXT, TEXT))), version="HTTP/1.0")
    assert plain(answer) == TEXT * 2
    assert answer.headers["Transfer-Encoding"] is None


# Bodies that come in pieces


class Pieces:
    """The Chunks of these pieces; `log` tells what was asked of them."""

    trailers: Fields = ()

    def __init__(self, *pieces: bytes, prompt: bool = False, error: Exception | None = None) -> None:
        self.pieces = pieces
        self.prompt = prompt
        self.error = error
        self.log: list[str] = []

    async def _give(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.log.append("asked")
            yield piece
        if self.error is not None:
            raise self.error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._give()

    async def aclose(self) -> None:
        self.log.append("closed")


def steps(response: Response) -> list[bytes]:
    """The pieces of an encoded response, one after the other, to its end, and close it."""
    body: Any = response.body

    async def collect() -> list[bytes]:
        pieces = [piece async for piece in body]
        await body.aclose()
        return pieces

    coroutine = collect()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    found: list[bytes] = ended.value.value
    return found


def answered(handler: Handler, path: str = "/", **fields: str) -> Response:
    return ask(handler, path, **(fields or {"accept_encoding": "gzip"}))  # type: ignore[arg-type]


def test_each_piece_can_be_decoded_before_the_next_is_there() -> None:
    pieces = Pieces(b"data: 1\n\n", b"", b"data: 2\n\n")
    got = steps(answered(encoded(Response(200, (HTML,), pieces))))
    decoder = zlib.decompressobj(31)
    assert [text for text in map(decoder.decompress, got) if text] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert decoder.eof
    assert pieces.log == ["asked", "asked", "asked", "closed"]


def test_a_stream_is_sent_chunked_and_comes_to_its_end() -> None:
    answer = get(encoded(Response(200, (HTML, ("ETag", '"v1"')), Pieces(TEXT, TEXT))))
    assert (answer.headers["Transfer-Encoding"], answer.headers["ETag"], plain(answer)) == (
        "chunked",
        'W/"v1-gzip"',
        TEXT * 2,
    )


def test_a_slow_client_is_still_what_sets_the_pace() -> None:
    """The next piece is asked for when the one before has been handed on, and no sooner."""
    pieces = Pieces(*[NOISE] * 5)
    body: Any = answered(encoded(Response(200, (HTML,), pieces))).body

    async def first() -> None:
        async for piece in body:
            if piece:
                return

    with pytest.raises(StopIteration):
        first().send(None)
    assert pieces.log == ["asked"]
    with pytest.raises(StopIteration):
        body.aclose().send(None)
    assert pieces.log == ["asked", "closed"]


@pytest.mark.parametrize("prompt", [False, True])
def test_a_head_waits_for_the_first_piece_or_not_as_ever(prompt: bool) -> None:
    body: Any = answered(encoded(Response(200, (HTML,), Pieces(TEXT, prompt=prompt)))).body
    assert body.prompt is prompt


def test_a_large_piece_is_encoded_in_slices() -> None:
    data = os.urandom(SLICE * 3 + 1)
    got = steps(answered(encoded(Response(200, (HTML,), Pieces(data)))))
    assert zlib.decompress(b"".join(got), 31) == data
    assert max(map(len, got)) < SLICE * 1.2


def test_others_have_their_turn_while_a_large_body_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    large, order = b"x" * (64 << 20), []

    async def handler(asked: Request) -> Response:
        order.append(asked.path)
        return Response(200, (HTML,), large if asked.path == "/large" else b"small")

    async def closed(self: EncodedBody) -> None:
        order.append("done")

    monkeypatch.setattr(EncodedBody, "aclose", closed)
    handler = Compression(Settings(codings=("gzip",), level=1)).around(handler, False)
    got = meet(handler, request("/large", GZIP), request("/small", GZIP) * 3)
    assert plain(parse(got[0])) == large
    assert sorted(order[:-1]) == ["/large", *["/small"] * 3]
    assert order[-1] == "done"


@pytest.mark.parametrize("said", [len(TEXT) - 1, len(TEXT) + 1])
def test_a_stream_of_another_length_than_it_said_is_cut_short(said: int, caplog: pytest.LogCaptureFixture) -> None:
    response = Response(200, (HTML, ("Content-Length", str(said))), Pieces(TEXT[:2000], TEXT[2000:]))
    with pytest.raises(http.client.IncompleteRead):
        get(encoded(response))
    assert f"its Content-Length of {said}" in caplog.text


def test_a_stream_that_fails_is_cut_short_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    pieces = Pieces(TEXT, error=ValueError("oh"))
    with pytest.raises(http.client.IncompleteRead):
        get(encoded(Response(200, (HTML,), pieces)))
    assert pieces.log == ["asked", "closed"]
    assert "ValueError('oh')" in caplog.text


def test_a_stream_is_closed_where_its_client_leaves_or_does_not_want_it() -> None:
    left = Pieces(*[NOISE] * 10_000)
    meet(encoded(Response(200, (HTML,), left)), request("/", GZIP), hang_up_after=100)
    assert left.log[-1] == "closed"
    assert len(left.log) < 10_000
    head = Pieces(TEXT)
    assert is_encoded(get(encoded(Response(200, (HTML,), head)), method="HEAD"))
    assert head.log == ["closed"]


def test_a_stream_that_says_it_is_small_is_left_alone() -> None:
    response = Response(200, (HTML, ("Content-Length", "5")), Pieces(b"small"))
    assert not is_encoded(get(encoded(response)))


def test_events_are_encoded_by_gzip_alone_with_little_memory() -> None:
    """A window of 4 KiB: what repeats after 8 KiB is not found."""
    events = (("Content-Type", "text/event-stream"),)
    far = NOISE + os.urandom(8192) + NOISE
    answer = get(encoded(Response(200, events, Pieces(far)), codings="auto"), "Accept-Encoding: zstd, br, gzip")
    assert plain(answer) == far
    assert len(answer.body) > len(far)
    assert len(get(encoded(Response(200, (HTML,), Pieces(far)))).body) < len(far)
    assert not is_encoded(get(encoded(Response(200, events, Pieces(far)), codings=()), GZIP))


def test_beyond_a_number_of_streams_at_once_there_is_gzip_with_little_memory() -> None:
    """Or else clients that read slowly could fill the memory with encoders."""
    pytest.importorskip("zstandard")
    compressing = Compression(Settings(), streams=2, lean_streams=3)
    handler = compressing.around(giving(Response(200, (HTML,), TEXT * 100)), keeps=False)

    def began(accept: str = "zstd, gzip", handler: Handler = handler) -> tuple[str | None, Any]:
        response = answered(handler, accept_encoding=accept)
        return dict(response.headers).get("Content-Encoding"), response.body

    events = Response(200, (("Content-Type", "text/event-stream"),), Pieces(TEXT))
    assert began(handler=compressing.around(giving(events), keeps=False))[0] == "gzip"  # does not count
    first, second, third = began(), began(), began()
    assert [name for name, _ in (first, second, third)] == ["zstd", "zstd", "gzip"]
    assert began("zstd")[0] is None
    for _, body in (first, third):
        with pytest.raises(StopIteration):
            body.aclose().send(None)
    assert began()[0] == "zstd"
    small = compressing.around(giving(Response(200, (HTML,), TEXT)), keeps=False)
    assert began("zstd", small)[0] == "zstd"  # takes no time
    assert [began()[0] for _ in range(3)] == ["gzip", "gzip", None]  # beside the events, which go on
    assert began("zstd", small)[0] == "zstd"


# Files, and what is kept of them


@pytest.fixture
def page(root: Path) -> Path:
    (root / "page.html").write_bytes(TEXT)
    return root / "page.html"


def files(root: Path, **settings: Any) -> tuple[Compression, Handler]:
    compressing = Compression(Settings(**{"codings": ("gzip",), **settings}))
    return compressing, compressing.around(serve(root), keeps=True)


def fetch(handler: Handler, target: str, *fields: str, method: str = "GET") -> Answer:
    return parse(exchange(handler, request(target, *(fields or (GZIP,)), method=method)), method)


@pytest.mark.usefixtures("no_descriptor_is_left")
@pytest.mark.parametrize("size", [2000, SLICE, SLICE * 2 + 1, KEPT, KEPT + 1])
def test_a_file_of_any_size_is_encoded_and_a_small_one_kept(root: Path, size: int) -> None:
    data = (TEXT * (size // len(TEXT) + 1))[:size]
    (root / "page.html").write_bytes(data)
    compressing, handler = files(root)
    first, second = fetch(handler, "/page.html"), fetch(handler, "/page.html")
    assert plain(first) == plain(second) == data
    kept = size <= KEPT
    assert len(compressing.kept) == kept
    assert (second.headers["Content-Length"] is not None) == kept
    for name in ("ETag", "Vary", "Content-Encoding", "Content-Type", "Last-Modified"):
        assert first.headers[name] == second.headers[name]
    head = fetch(handler, "/page.html", method="HEAD")
    assert head.headers["Content-Length"] == second.headers["Content-Length"]
    assert fetch(handler, "/page.html", "X: y").body == data


def test_what_is_kept_is_not_encoded_again(root: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, handler = files(root)
    first = fetch(handler, "/page.html")
    monkeypatch.setattr(zlib, "compress", lambda *_: pytest.fail("encoded again"))
    assert fetch(handler, "/page.html").body == first.body
    assert fetch(handler, "/page.html", "X: y").body == TEXT


def test_what_does_not_get_smaller_is_not_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "noise.txt").write_bytes(NOISE)
    _, handler = files(root)
    first = fetch(handler, "/noise.txt")
    monkeypatch.setattr(zlib, "compress", lambda *_: pytest.fail("tried again"))
    again, head = fetch(handler, "/noise.txt"), fetch(handler, "/noise.txt", method="HEAD")
    assert first.body == again.body == NOISE
    for answer in (first, again, head):
        assert (is_encoded(answer), answer.headers["Vary"]) == (False, "Accept-Encoding")
        assert answer.headers["ETag"].startswith('"')


@pytest.mark.usefixtures("no_descriptor_is_left")
@pytest.mark.parametrize("size", [2000, SLICE])
def test_head_of_a_file_says_what_get_says_and_keeps_it_for_that(
    root: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (root / "page.html").write_bytes((TEXT * (size // len(TEXT) + 1))[:size])
    (root / "noise.html").write_bytes(os.urandom(size))
    _, handler = files(root)
    heads = {name: fetch(handler, name, method="HEAD") for name in ("/page.html", "/noise.html")}
    monkeypatch.setattr(zlib, "compress", lambda *_: pytest.fail("encoded again"))
    for name, head in heads.items():
        get_ = fetch(handler, name)
        assert head.body == b""
        for field_ in ("Content-Encoding", "Content-Length", "ETag", "Vary", "Accept-Ranges"):
            assert head.headers[field_] == get_.headers[field_], field_


def test_a_file_that_has_changed_is_encoded_anew(root: Path, page: Path) -> None:
    _, handler = files(root)
    fetch(handler, "/page.html")
    page.write_bytes(TEXT[::-1])
    assert plain(fetch(handler, "/page.html")) == TEXT[::-1]


def test_two_files_alike_are_two(root: Path, page: Path) -> None:
    (root / "other.html").write_bytes(TEXT[::-1])
    stamp = os.stat(page).st_mtime_ns
    os.utime(root / "other.html", ns=(stamp, stamp))
    _, handler = files(root)
    assert [plain(fetch(handler, f"/{name}.html")) for name in ("page", "other", "page")] == [TEXT, TEXT[::-1], TEXT]


def test_a_encoded_file_is_revalidated(root: Path, page: Path) -> None:
    _, handler = files(root)
    etag = fetch(handler, "/page.html").headers["ETag"]
    again = fetch(handler, "/page.html", GZIP, f"If-None-Match: {etag}")
    assert (again.status, again.headers["ETag"], again.headers["Vary"]) == (304, etag, "Accept-Encoding")
    other = fetch(handler, "/page.html", "Accept-Encoding: identity", f"If-None-Match: {etag}")
    assert (other.status, other.body) == (200, TEXT)
    assert (
        fetch(handler, "/page.html", "Range: bytes=0-9", "Accept-Encoding: gzip").headers["Vary"] == "Accept-Encoding"
    )


@pytest.mark.parametrize(("times", "left"), [(20, 1), (100, SLICE + 1)])
@pytest.mark.usefixtures("no_descriptor_is_left")
def test_a_file_cut_short_meanwhile_does_not_pass_for_the_whole(
    root: Path, caplog: pytest.LogCaptureFixture, times: int, left: int
) -> None:
    (root / "page.html").write_bytes(TEXT * times)
    given = serve(root)

    async def cut(asked: Request) -> Response:
        response = await given(asked)
        os.truncate(root / "page.html", left)
        return response

    compressing = Compression(Settings(codings=("gzip",)))
    with pytest.raises(http.client.IncompleteRead):
        fetch(compressing.around(cut, keeps=True), "/page.html")
    assert "cut short" in caplog.text
    assert len(compressing.kept) == 0


def test_nothing_is_kept_where_nothing_may_be_or_nobody_vouches_for_the_etag(root: Path, page: Path) -> None:
    compressing, handler = files(root, cache=0)
    assert plain(fetch(handler, "/page.html")) == TEXT
    assert len(compressing.kept) == 0
    compressing = Compression(Settings(codings=("gzip",)))

    async def per_user(asked: Request) -> Response:
        return Response(200, (HTML, ("ETag", '"same"')), asked.headers.get("cookie").encode() * 500)

    handler = compressing.around(per_user, keeps=False)
    assert [plain(fetch(handler, "/", GZIP, f"Cookie: {user}"))[:1] for user in "ab"] == [b"a", b"b"]
    assert len(compressing.kept) == 0
    weak = compressing.around(giving(Response(200, (HTML, ("ETag", 'W/"v1"')), TEXT)), keeps=True)
    assert is_encoded(fetch(weak, "/"))
    assert len(compressing.kept) == 0


def test_two_routes_do_not_give_each_others_files(root: Path, page: Path) -> None:
    """Files of two file systems can be alike in all that an ETag tells."""
    compressing = Compression(Settings(codings=("gzip",)))
    fields = (HTML, ("ETag", '"same"'))
    routes = [compressing.around(giving(Response(200, fields, text)), keeps=True) for text in (TEXT, TEXT[::-1])]
    assert [plain(fetch(route, "/")) for route in routes * 2] == [TEXT, TEXT[::-1]] * 2


def test_the_spellings_of_a_path_share_what_is_kept_and_one_that_is_too_long_is_not(root: Path, page: Path) -> None:
    compressing, handler = files(root)
    for number in range(1, 9):
        assert plain(fetch(handler, "/" * number + "page.html")) == TEXT
    assert len(compressing.kept) == 1
    fallback = compressing.around(serve(root, try_=("/page.html",)), keeps=True)
    assert plain(fetch(fallback, "/" + "x" * 1024)) == TEXT
    assert len(compressing.kept) == 1


def test_what_is_kept_has_a_bound_and_what_was_not_asked_for_goes_first() -> None:
    def key(number: int) -> Key:
        return handler, "/", "gzip", 200, (("ETag", f'"{number}"'),)

    handler, kept = giving(Response(200)), EncodedCache(3 * (100 + ENTRY + len("/")))
    for number in range(3):
        kept.put(key(number), (), b"x" * 100)
    assert kept.get(key(0)) is not None
    kept.put(key(3), (), b"x" * 100)
    kept.put(key(3), (), b"x" * 100)
    there = [kept.get(key(number)) is not None for number in range(4)]
    assert (there, kept.size) == ([True, False, True, True], 3 * (100 + ENTRY + len("/")))
    kept.put(key(4), (), b"x" * (3 * (100 + ENTRY)))
    assert len(kept) == 3
