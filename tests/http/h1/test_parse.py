"""Whole heads: where they begin and end, their limits, and the caches."""

from __future__ import annotations

import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import BadRequest, HeadTooLarge, ProtocolError, TargetTooLong
from prefork.handlers.apps.asgi import application as asgi
from prefork.handlers.apps.wsgi import application as wsgi
from prefork.http.h1.parse import BLOCKS, ENTRY_BYTES, LINES, Heads
from prefork.http.message import Headers, RequestLine
from prefork.observe.access_log import compile_format
from tests.http.conftest import GET, WHO, parse

LONG = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000 + b"\r\n\r\n"


def read(heads: Heads, data: bytes, size: int) -> tuple[RequestLine, Headers]:
    """Parse as a connection does when `data` arrives in pieces of `size` bytes."""
    known = 0
    for arrived in range(size, len(data) + size, size):
        end = data.find(b"\r\n\r\n", 0, arrived)
        if end >= 0:
            return heads.parse(data[:arrived], end)
        heads.check_partial(data[:arrived], known)
        known = arrived
    raise AssertionError("no head in there")


# ---- the beginning: RFC 9112 §2.2


def test_an_empty_line_before_the_request_line_is_ignored() -> None:
    line, headers = parse(b"\r\n" + GET)
    assert (line.method, line.path, line.minor, headers.pairs) == ("GET", "/", 1, (("host", "a"),))
    assert parse(b"\r\nGET / HTTP/1.0\r\n\r\n")[0].minor == 0


@pytest.mark.parametrize(
    "before", [b"\r\n\r\n", b"\n", b"\r", b"\n\r\n", b"\r\n\n", b"\r\n\r", b" \r\n", b"\0", b"\xef\xbb\xbf"]
)
def test_anything_else_before_it_is_refused(before: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(before + GET)


def test_an_empty_line_is_no_part_of_what_is_cached() -> None:
    heads = Heads(32768, 100)
    parse(GET, heads)
    with_line, without = parse(b"\r\n" + GET, heads), parse(GET, heads)
    assert with_line[0] is without[0]
    assert with_line[1] is without[1]


HOPELESS = [b"\x16\x03\x01\x02", b"{", b"GET\r\n", b"SSH-2.0-OpenSSH\r\n", b"\0", b"\r\r", b"GET / HTTP/1.1\nHost"]
HOPELESS += [b"\r\n\n", b"\r\nG(", b"\n", b"X" * 33, b"G\xc9T", b"GET / HTTP/1.1\r\nA: b\n", b":", b" GET", b"\r\n "]


@pytest.mark.parametrize("data", HOPELESS)
def test_what_cannot_become_a_request_is_refused_before_it_is_whole(data: bytes) -> None:
    """Another protocol's client gets its answer now, not when it times out."""
    with pytest.raises(BadRequest):
        Heads(32768, 100).check_partial(data, 0)


@given(st.integers(0, len(LONG) - 4))
def test_no_beginning_of_a_request_is_refused(length: int) -> None:
    for before in (b"", b"\r\n"):
        Heads(32768, 100).check_partial((before + LONG)[:length], 0)


@given(st.binary(max_size=60).map(lambda tail: b"GET / HTTP/1.1\r\n" + tail), st.data())
def test_a_bare_lf_is_found_wherever_the_pieces_end(data: bytes, draw: st.DataObject) -> None:
    known = draw.draw(st.integers(0, len(data)))
    heads = Heads(32768, 100)
    try:
        heads.check_partial(data[:known], 0)
        heads.check_partial(data, known)
    except BadRequest:
        found = True
    else:
        found = False
    assert found == (b"\n" in data.replace(b"\r\n", b""))


# ---- limits


def test_a_head_of_max_head_bytes_is_accepted_and_no_more() -> None:
    """RFC 6585 §5; the size is that of the head without its empty line."""
    size = len(LONG) - 4
    assert parse(LONG, Heads(size, 100))[1].get("x") == "x" * 1000
    with pytest.raises(HeadTooLarge):
        parse(LONG, Heads(size - 1, 100))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 11, 100, 2000])
@pytest.mark.parametrize("limit", range(len(LONG) - 8, len(LONG) + 2))
def test_the_limit_does_not_depend_on_how_the_head_arrives(limit: int, size: int) -> None:
    if limit >= len(LONG) - 4:
        assert read(Heads(limit, 100), LONG, size)[0].path == "/"
    else:
        with pytest.raises(HeadTooLarge):
            read(Heads(limit, 100), LONG, size)


def test_an_endless_head_is_refused_when_it_passes_the_limit() -> None:
    heads = Heads(100, 100)
    data = b"GET / HTTP/1.1\r\nA: " + b"b" * 100
    heads.check_partial(data[:100], 0)
    with pytest.raises(HeadTooLarge) as caught:
        heads.check_partial(data, 100)
    assert caught.value.status == 431


def test_a_request_line_beyond_the_limit_is_a_414() -> None:
    """RFC 9110 §15.5.15."""
    data = b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    heads = Heads(100, 100)
    for attempt in (lambda: parse(data, heads), lambda: heads.check_partial(data[:110], 0)):
        with pytest.raises(TargetTooLong) as caught:
            attempt()
        assert caught.value.status == 414


def test_a_limit_holds_for_one_head_not_for_what_follows_it() -> None:
    assert Heads(100, 100).parse(GET * 100, GET.find(b"\r\n\r\n"))[0].path == "/"


# ---- caches


def test_what_came_once_is_not_cached_what_came_twice_is() -> None:
    heads = Heads(32768, 100)
    parse(GET, heads)
    assert not heads.lines
    assert not heads.blocks
    parse(GET, heads)
    assert len(heads.lines) == len(heads.blocks) == 1


def test_a_hit_gives_the_same_objects_as_the_miss() -> None:
    heads = Heads(32768, 100)
    parse(GET, heads)
    first, second = parse(GET, heads), parse(GET, heads)
    assert first[0] is second[0]
    assert first[1] is second[1]


def test_a_block_says_whether_it_is_kept_for_others() -> None:
    heads = Heads(32768, 100)
    assert [parse(GET, heads)[1].shared for _ in range(3)] == [False, True, True]
    long = GET[:-2] + b"A: " + b"a" * ENTRY_BYTES + b"\r\n\r\n"
    assert [parse(long, heads)[1].shared for _ in range(3)] == [False, False, False]


def test_the_request_line_and_the_fields_are_cached_apart() -> None:
    heads = Heads(32768, 100)
    parse(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", heads)
    line, headers = parse(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", heads)
    assert parse(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", heads)[1] is headers
    assert parse(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n", heads)[0] is line


def test_blocks_that_differ_in_a_byte_are_different() -> None:
    heads = Heads(32768, 100)
    one = parse(b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n", heads)[1]
    two = parse(b"POST / HTTP/1.1\r\nHost: a\r\nX: 2\r\n\r\n", heads)[1]
    assert (one.get("x"), two.get("x")) == ("1", "2")


def test_what_a_line_and_a_block_are_only_together_is_decided_on_a_hit_too() -> None:
    """Each half is valid, and cached; the two of them are not."""
    heads = Heads(32768, 100)
    hostless = b"A: b\r\n\r\n"
    encoded = b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(2):
        parse(b"GET / HTTP/1.0\r\n" + hostless, heads)
        parse(b"GET / HTTP/1.1\r\n" + encoded, heads)
        with pytest.raises(BadRequest):
            parse(b"GET / HTTP/1.1\r\n" + hostless, heads)
        with pytest.raises(BadRequest):
            parse(b"GET / HTTP/1.0\r\n" + encoded, heads)


def test_what_is_refused_once_is_refused_always() -> None:
    heads = Heads(32768, 2)
    for bad in (
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        GET[:-2] + b"A: b\r\nB: c\r\n\r\n",
    ):
        for _ in range(3):
            with pytest.raises(ProtocolError):
                parse(bad, heads)


def test_a_limit_holds_for_what_is_cached() -> None:
    """The head is over the limit only as a whole: both halves may be known."""
    heads = Heads(60, 100)
    for _ in range(2):
        parse(b"GET /" + b"a" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", heads)
        parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20 + b"\r\n\r\n", heads)
    with pytest.raises(HeadTooLarge):
        parse(b"GET /" + b"a" * 20 + b" HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20 + b"\r\n\r\n", heads)


def test_the_caches_are_bounded_in_number() -> None:
    heads = Heads(32768, 100)
    for number in range(LINES * 2):
        for _ in range(2):
            parse(f"GET /{number} HTTP/1.1\r\nHost: a\r\nX: {number}\r\n\r\n".encode(), heads)
        assert len(heads.lines) <= LINES
        assert len(heads.blocks) <= BLOCKS
    assert parse(f"GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), heads)[0] in heads.lines.values()


def test_the_caches_are_bounded_in_size() -> None:
    heads = Heads(1 << 20, 100)
    for size in (ENTRY_BYTES - 1000, ENTRY_BYTES, 100_000):
        long = b"x" * size
        for _ in range(2):
            line, headers = parse(b"GET /%b HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (long, long), heads)
        assert (line.path, headers.get("x")) == ("/" + "x" * size, "x" * size)
    kept = [*heads.lines, *heads.blocks]
    assert len(kept) == 2
    assert sum(map(sys.getsizeof, kept)) < 2 * ENTRY_BYTES


MANY = b"".join(b"X%d-%%(n)d: %%(n)d\r\n" % place for place in range(96))
JOINED = b"".join(b"X%d: %%(n)d\r\n" % (place % 3) for place in range(96))


@pytest.mark.parametrize(
    ("target", "fields"),
    [(b"", MANY), (b"", JOINED), (b"", b"Referer: " + b'"' * 3000 + b"%(n)d\r\n"), (b'"' * 3600 + b"%(n)d", b"")],
    ids=["many fields", "fields joined", "a field escaped", "a target escaped"],
)
def test_what_is_kept_of_heads_is_within_its_bounds_with_all_that_depends_on_it(target: bytes, fields: bytes) -> None:
    heads = Heads(32768, 100, cache_bytes=500_000, whole_bytes=1_000_000)
    record = compile_format("combined")
    known = 0
    tracemalloc.start()
    for number in range(150):
        data = (b"GET /" + target + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n") % {b"n": number}
        for _ in range(4):
            found = heads.whole(data)
            assert found is not None
            line, headers, _, repeat = found
            known += repeat is not None
            record(WHO, line, headers, 200, 100, 200, 0.1)
            headers.prepared.setdefault("wsgi", wsgi._fields(headers, {}).copy())
            headers.prepared.setdefault("asgi", asgi._encoded(headers))
            line.prepared.setdefault("wsgi", [line.path.encode(), line.query.encode(), line.origin.encode()])
            line.prepared.setdefault("asgi", [line.path.encode(), line.query.encode(), line.origin.encode()])
        if not number % 20:
            assert tracemalloc.get_traced_memory()[0] < 1_000_000 + 3 * 500_000
    tracemalloc.stop()
    assert known


@pytest.mark.parametrize("field", [b"Connection", b"Host", b"X"])
def test_what_is_remembered_of_single_fields_is_bounded_in_size(field: bytes) -> None:
    heads = Heads(1 << 20, 100)
    tracemalloc.start()
    for number in range(BLOCKS):
        with suppress(BadRequest):
            parse(b"GET / HTTP/1.0\r\n%b: %b\r\n\r\n" % (field, b"%d" % number * 10_000), heads)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < BLOCKS * ENTRY_BYTES


@pytest.mark.parametrize(("length", "fine"), [(255, True), (256, False), (20_000, False)])
def test_a_host_is_no_longer_than_a_name_can_be(length: int, fine: bool) -> None:
    """RFC 1035 §2.3.4."""
    head = b"GET / HTTP/1.1\r\nHost: " + b"a" * length + b":65535\r\n\r\n"
    if fine:
        assert parse(head)[1].get("host").endswith("a:65535")
    else:
        with pytest.raises(BadRequest):
            parse(head)


PARTS = [
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"A: b\r\n",
    b"\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"x",
]


@given(st.lists(st.sampled_from(PARTS), max_size=6).map(b"".join))
def test_a_head_taken_as_a_whole_is_what_parsing_would_give(data: bytes) -> None:
    heads = Heads(32768, 100)
    for seen in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\nA: b\r\n\r\n", GET, GET[:-2] + b"A: b\r\n\r\n"):
        parse(seen, heads)
        parse(seen, heads)
    end = data.find(b"\r\n\r\n")
    if end < 0 or end != len(data) - 4:
        assert heads.whole(data) is None
        return
    verdicts: list[object] = []
    for way in ("whole", "parsed", "parsed anew"):
        try:
            found = (
                heads.whole(data)
                if way == "whole"
                else (heads if way == "parsed" else Heads(32768, 100)).parse(data, end)
            )
            assert found is not None
            verdicts.append((found[0].method, found[0].minor, found[1].pairs))
        except ProtocolError as error:
            verdicts.append(str(error))
    assert verdicts[0] == verdicts[1] == verdicts[2]


def test_a_whole_head_that_is_known_is_the_same_object() -> None:
    heads = Heads(32768, 100)
    heads.whole(GET)
    first, second = heads.whole(GET), heads.whole(GET)
    assert first is not None
    assert second is not None
    assert first[0] is second[0]
    assert first[1] is second[1]


def test_the_limits_hold_for_a_whole_head_that_is_known() -> None:
    heads = Heads(60, 100)
    long, other = b"GET /" + b"a" * 20 + b" HTTP/1.1\r\n", b"Host: a\r\nX: " + b"x" * 20 + b"\r\n\r\n"
    for _ in range(2):
        heads.whole(long + b"Host: a\r\n\r\n")
        heads.whole(b"GET / HTTP/1.1\r\n" + other)
        heads.whole(b"GET / HTTP/1.0\r\n\r\n")
    for refused in (long + other, b"GET / HTTP/1.1\r\n\r\n"):
        with pytest.raises(ProtocolError):
            heads.whole(refused)


@given(
    st.lists(st.sampled_from([b"Host: a", b"A: b", b"Content-Length: 3", b"Transfer-Encoding: chunked"]), max_size=3),
    st.booleans(),
)
def test_a_cache_never_changes_the_verdict(lines: list[bytes], minor: bool) -> None:
    head = b"GET / HTTP/1.%d\r\n" % minor + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    verdicts: list[object] = []
    for heads in (SHARED, SHARED, SHARED, Heads(32768, 100)):
        try:
            _, headers, framing = heads.parse(head, len(head) - 4)
            verdicts.append((headers.pairs, framing.length, framing.chunked, framing.has_body))
        except ProtocolError as error:
            verdicts.append((error.status, str(error)))
    assert verdicts.count(verdicts[0]) == 4


SHARED = Heads(32768, 100)
