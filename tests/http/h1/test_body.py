"""The decoders of request bodies: RFC 9112 §6 and §7, with h11 as the second opinion."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import BadRequest, BodyTooLarge, HeadTooLarge, ProtocolError
from prefork.http.h1.body import FRAMING_LIMIT, LINE_LIMIT, TRAILER_LIMIT, ChunkedDecoder, Decoder, LengthDecoder

WIKI = b"4\r\nWiki\r\n6;a=b\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\n"
WIKI_BODY = b"Wikipedia in \r\n\r\nchunks."
NEXT = b"GET /next HTTP/1.1\r\n"

sizes = st.lists(st.integers(1, 40), max_size=20)


def feed(decoder: Decoder, data: bytes, cuts: list[int]) -> bytes:
    """Feed `data` in pieces of `cuts` bytes, then the remainder; what comes after the body stays in `rest`."""
    body = b""
    at = 0
    for size in [*cuts, len(data)]:
        if decoder.done:
            break
        body += decoder.feed(data[at : at + size])
        at += size
        while decoder.held:
            body += decoder.feed(b"")
    decoder.rest += data[at:]
    return body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ---- Content-Length


@pytest.mark.parametrize("after", [b"", NEXT])
def test_a_body_by_length_ends_where_it_says_at_every_split(after: bytes) -> None:
    data = b"0123456789" + after
    for cut in range(len(data) + 1):
        decoder = LengthDecoder(10)
        assert feed(decoder, data, [cut] if cut else []) == b"0123456789"
        assert decoder.done
        assert decoder.rest == after


def test_a_body_by_length_is_not_done_before_its_end() -> None:
    decoder = LengthDecoder(10)
    assert decoder.feed(b"012345678") == b"012345678"
    assert (decoder.done, decoder.left) == (False, 1)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=20), sizes)
def test_a_body_by_length_is_what_was_sent(body: bytes, after: bytes, cuts: list[int]) -> None:
    decoder = LengthDecoder(len(body))
    assert feed(decoder, body + after, cuts) == body
    assert (decoder.done, decoder.rest) == (True, after)


# ---- chunked: RFC 9112 §7.1


@pytest.mark.parametrize("after", [b"", NEXT, b"\r\n", b"0\r\n\r\n"])
def test_a_chunked_body_ends_with_its_last_chunk_at_every_split(after: bytes) -> None:
    data = WIKI + after
    for cut in range(len(data) + 1):
        decoder = ChunkedDecoder(0)
        assert feed(decoder, data, [cut] if cut else []) == WIKI_BODY
        assert decoder.done
        assert decoder.rest == after


def test_a_chunked_body_byte_by_byte() -> None:
    decoder = ChunkedDecoder(0)
    assert feed(decoder, WIKI + NEXT, [1] * len(WIKI)) == WIKI_BODY
    assert (decoder.done, decoder.rest) == (True, NEXT)


def test_no_beginning_of_a_chunked_body_is_its_end() -> None:
    for cut in range(len(WIKI)):
        decoder = ChunkedDecoder(0)
        assert WIKI_BODY.startswith(decoder.feed(WIKI[:cut]))
        assert not decoder.done


def test_data_is_handed_on_as_it_arrives() -> None:
    decoder = ChunkedDecoder(0)
    assert decoder.feed(b"A\r\n01234") == b"01234"
    assert decoder.feed(b"56") == b"56"
    assert decoder.rest == b""


@pytest.mark.parametrize("size", [b"a", b"A", b"0a", b"00000000000000a"])
def test_a_size_is_hexadecimal(size: bytes) -> None:
    assert feed(ChunkedDecoder(0), size + b"\r\n0123456789\r\n0\r\n\r\n", []) == b"0123456789"


BAD_SIZES = [b"", b"+5", b"-5", b"0x5", b"5h", b"g", b" 5", b"\t5", b"5_0", b"5 5", b"5,", b"\xb2", b"5\x00"]
BAD_SIZES += [b"5\x0b", b"\r", b"5\r", b"\n5", b"0" * 16, b"f" * 16, b"5.0", b"5\xa0", b"5\x7f;a", b'"5"', b"5\n"]
BAD_SIZES += [b"5\nhello", b"5 \x0c", b"5 ", b"5\t", b"5 \t"]


@pytest.mark.parametrize("size", BAD_SIZES)
def test_a_malformed_size_is_refused(size: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedDecoder(0).feed(size + b"\r\nhello\r\n0\r\n\r\n")


def test_a_bare_lf_ends_no_line() -> None:
    """RFC 9112 §7.1; "TERM" attacks live on servers that disagree here (§11.2)."""
    decoder = ChunkedDecoder(0)
    assert decoder.feed(b"5\nhello\n0\n\n") == b""
    assert not decoder.done
    with pytest.raises(BadRequest):
        decoder.feed(b"\r\n")


@pytest.mark.parametrize(
    "extension",
    [
        *(b";a", b";a=b", b';a="b c"', b';a="b;\\"\xff"', b";a;b=c", b";" + b"a" * 1000),
        *(b" ;a=1", b"\t;a", b"; a = b", b' ; \t a \t = "b" ; c'),  # bad white space
    ],
)
def test_extensions_are_read_over(extension: bytes) -> None:
    """RFC 9112 §7.1.1: MUST ignore unrecognised ones, and ought to limit their length."""
    assert feed(ChunkedDecoder(0), b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n", []) == b"hello"


@pytest.mark.parametrize(
    "extension",
    [
        *(b";a\nb", b";\x00", b";a\rb", b";\x7f", b";\x1b", b';a="\x00"', b';a="\\\x7f"'),
        *(b"x", b" a", b"=b", b";", b";;", b";a=", b";=b", b";a b", b';a="b', b';a="b"c', b";\xff"),
        *(b";a ", b";a\t", b";a=b ", b"; ", b" ;"),
    ],
)
def test_malformed_extensions_are_refused(extension: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedDecoder(0).feed(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("after", [b"X\r\n", b"\n", b"\r\r\n", b"\n\r\n", b"hello\r\n", b" \r\n", b"0\r\n\r\n"])
def test_a_chunk_that_is_longer_than_its_size_is_refused(after: bytes) -> None:
    with pytest.raises(BadRequest):
        feed(ChunkedDecoder(0), b"5\r\nhello" + after + b"\r\n0\r\n\r\n", [])


# ---- trailers: RFC 9112 §7.1.2


@pytest.mark.parametrize(
    "trailer", [b"X: y\r\n", b"X:\r\n", b"X: y\r\nZ: \xff\r\n", b"Content-Length: 5\r\n", b"Host: b\r\n"]
)
def test_trailers_are_dropped(trailer: bytes) -> None:
    decoder = ChunkedDecoder(0)
    assert decoder.feed(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n" + NEXT) == b"hello"
    assert (decoder.done, decoder.rest) == (True, NEXT)


@pytest.mark.parametrize(
    "trailer", [b"X", b"X : y", b" X: y", b"X: y\r\n z", b"X: \x00", b"X: a\nY: b", b": y", b"X: \r", b"\n", b"0"]
)
def test_malformed_trailers_are_refused(trailer: bytes) -> None:
    with pytest.raises(BadRequest):
        feed(ChunkedDecoder(0), b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n", [])


def test_trailers_are_bounded() -> None:
    decoder = ChunkedDecoder(0)
    decoder.feed(b"0\r\n")
    line = b"X: " + b"y" * 997 + b"\r\n"
    for _ in range(TRAILER_LIMIT // 1000):
        decoder.feed(line)
    with pytest.raises(HeadTooLarge):
        decoder.feed(line)


# ---- limits


@pytest.mark.parametrize("cuts", [[], [1] * 30, [5]])
def test_max_body_counts_data_and_nothing_else(cuts: list[int]) -> None:
    data = b"3;xxxxxxxxxx\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"
    assert feed(ChunkedDecoder(5), data, cuts) == b"abcde"
    with pytest.raises(BodyTooLarge) as caught:
        feed(ChunkedDecoder(4), data, cuts)
    assert caught.value.status == 413


def test_a_chunk_that_would_be_too_large_is_refused_by_its_size_alone() -> None:
    with pytest.raises(BodyTooLarge):
        ChunkedDecoder(100).feed(b"ffffffffffffff\r\n")


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_any_number_of_small_chunks_is_fine(size: int) -> None:
    assert len(feed(ChunkedDecoder(0), chunk(b"a" * size) * 30_000 + b"0\r\n\r\n", [])) == size * 30_000


def test_small_chunks_are_taken_apart_a_portion_at_a_time() -> None:
    """10,000 of them fit into one read, and take 20 ms."""
    decoder = ChunkedDecoder(0)
    body = decoder.feed(b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n" + NEXT)
    assert decoder.held
    assert len(body) <= 1024
    portions = 1
    while decoder.held:
        body += decoder.feed(b"")
        portions += 1
    assert (len(body), decoder.done, decoder.rest) == (10_000, True, NEXT)
    assert portions == 10


def test_extensions_that_add_up_are_refused_whatever_small_chunks_have_not_needed() -> None:
    decoder = ChunkedDecoder(0)
    feed(decoder, b"1\r\na\r\n" * 10_000, [])
    long = b"1;" + b"x" * 1000 + b"\r\na\r\n"
    feed(decoder, long * (FRAMING_LIMIT // 1000 - 1), [])
    with pytest.raises(BadRequest, match="extensions"):
        decoder.feed(long * 3)


@pytest.mark.parametrize("lead", [b"", b"0\r\n", b"5\r\nhello"], ids=["size", "trailer", "chunk's end"])
def test_a_line_without_an_end_is_refused_when_it_passes_its_limit(lead: bytes) -> None:
    decoder = ChunkedDecoder(0)
    decoder.feed(lead)
    decoder.feed(b"5;" + b"a" * (LINE_LIMIT - 2))
    with pytest.raises(BadRequest):
        decoder.feed(b"aaa")


@pytest.mark.parametrize("cut", [1, 2, 500, *range(LINE_LIMIT - 2, LINE_LIMIT + 5)])
def test_the_limit_of_a_line_does_not_depend_on_how_it_arrives(cut: int) -> None:
    line = b"5;" + b"a" * (LINE_LIMIT - 2)
    assert feed(ChunkedDecoder(0), line + b"\r\nhello\r\n0\r\n\r\n", [cut]) == b"hello"
    with pytest.raises(BadRequest):
        feed(ChunkedDecoder(0), line + b"a\r\nhello\r\n0\r\n\r\n", [cut])


# ---- against h11


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.binary(max_size=20), sizes)
def test_any_chunked_body_is_what_was_sent(pieces: list[bytes], after: bytes, cuts: list[int]) -> None:
    decoder = ChunkedDecoder(0)
    assert feed(decoder, b"".join(map(chunk, pieces)) + b"0\r\n\r\n" + after, cuts) == b"".join(pieces)
    assert (decoder.done, decoder.rest) == (True, after)


LEXEMES = [
    b"0",
    b"1",
    b"2",
    b"5",
    b"a",
    b"F",
    b"\r\n",
    b"\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b";",
    b"a=b",
    b" ",
    b"\t",
    b":",
    b"X: y",
]
LEXEMES += [
    b"hello",
    b"0\r\n\r\n",
    b"1\r\na\r\n",
    b"5\r\nhello\r\n",
    b"-",
    b"\0",
    b"\xff",
    b"0x",
    b"+",
    b"3;a=b\r\nabc\r\n",
]


@given(st.lists(st.sampled_from(LEXEMES), max_size=8).map(b"".join), sizes)
def test_any_other_bytes_are_read_as_h11_reads_them_or_refused(data: bytes, cuts: list[int]) -> None:
    decoder = ChunkedDecoder(0)
    try:
        body = feed(decoder, data, cuts)
    except ProtocolError:
        return
    if decoder.done:
        assert oracle(data) == (body, decoder.rest)


@given(st.lists(st.sampled_from(LEXEMES), max_size=8).map(b"".join), sizes)
def test_the_verdict_does_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    verdicts: list[object] = []
    for way in ([], cuts, [1] * len(data)):
        decoder = ChunkedDecoder(20)
        try:
            verdicts.append((feed(decoder, data, way), decoder.done, decoder.rest))
        except ProtocolError as error:
            verdicts.append(str(error))
    assert verdicts[0] == verdicts[1] == verdicts[2]


def oracle(data: bytes) -> tuple[bytes, bytes]:
    """The body that h11 finds at the beginning of `data`, and what comes after it."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert isinstance(server.next_event(), h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage), event
    return body, bytes(server.trailing_data[0])
