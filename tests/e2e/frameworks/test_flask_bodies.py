"""Flask's responses that are more than a text: streams and files; see flask_site.py."""

from __future__ import annotations

import uuid

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.frameworks.conftest import Site
from tests.e2e.frameworks.flask_site import FILE


def test_pieces_arrive_as_they_are_yielded_in_the_requests_context(client: httpx.Client, site: Site) -> None:
    """The next piece is made only once the client has had the one before, and says so by another request."""
    gate = f"stream-{uuid.uuid4().hex}"
    with site.client() as opener, client.stream("GET", f"/stream/{gate}", params={"word": "piece"}) as answer:
        assert (answer.status_code, answer.headers["Transfer-Encoding"]) == (200, "chunked")
        lines = answer.iter_lines()
        for number in range(4):
            assert next(lines) == f"piece {number}"
            opener.post(f"/open/{gate}")
        assert list(lines) == []
    eventually(lambda: f"closed {gate}" in client.get("/events").json())


def test_a_hang_up_closes_the_generator(client: httpx.Client, site: Site) -> None:
    gates = [f"hang-up-{uuid.uuid4().hex}" for _ in range(2)]

    def closed(gate: str) -> int:
        return int(client.get("/events").json().count(f"closed {gate}"))

    for gate in gates:  # by the time of the second's end, any more of the first would be there
        with site.client() as leaving, leaving.stream("GET", f"/endless/{gate}") as answer:
            pieces = answer.iter_raw()  # kept, since its own end would be the connection's
            assert next(pieces).startswith(b"xxx")
            assert closed(gate) == 0
        eventually(lambda gate=gate: closed(gate) >= 1)  # type: ignore[misc]
    assert [closed(gate) for gate in gates] == [1, 1]


def test_an_exception_in_mid_stream_cuts_the_response_and_is_logged(client: httpx.Client, site: Site) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/breaks-off")
    site.server.wait_log(rf"GET {site.mount}/breaks-off failed: LookupError\('in mid-stream'\)$")
    assert client.get("/visits").status_code == 200


def test_a_file_arrives_whole_over_and_over(client: httpx.Client) -> None:
    for _ in range(3):
        answer = client.get("/file")
        assert (answer.status_code, answer.content) == (200, FILE.read_bytes())
        assert answer.headers["Content-Length"] == str(FILE.stat().st_size)
        assert answer.headers["Cache-Control"] == "public, max-age=60"
    head = client.head("/file")
    assert (head.headers["Content-Length"], head.content) == (str(FILE.stat().st_size), b"")


@pytest.mark.parametrize(("path", "whole"), [("/file", FILE.read_bytes()), ("/memory", b"0123456789" * 1000)])
def test_a_part_of_a_file_is_a_206(client: httpx.Client, path: str, whole: bytes) -> None:
    for asked, first, last in [("0-0", 0, 0), ("100-299", 100, 299), ("-10", len(whole) - 10, len(whole) - 1)]:
        answer = client.get(path, headers={"Range": f"bytes={asked}"})
        assert (answer.status_code, answer.content) == (206, whole[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
        assert answer.headers["Content-Length"] == str(last - first + 1)
    assert client.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert client.get(path).content == whole


@pytest.mark.parametrize("path", ["/file", "/memory"])
def test_what_the_client_has_already_is_a_304(client: httpx.Client, path: str) -> None:
    etag = client.get(path).headers["ETag"]
    for _ in range(2):
        known = client.get(path, headers={"If-None-Match": etag})
        assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", etag)
        assert "Content-Length" not in known.headers
    stale = client.get(path, headers={"If-None-Match": '"another"'})
    assert stale.status_code == 200
    ranged = client.get(path, headers={"Range": "bytes=0-4", "If-Range": '"another"'})
    assert (ranged.status_code, ranged.content) == (200, stale.content)


def test_a_file_as_an_attachment_has_its_name(client: httpx.Client) -> None:
    answer = client.get("/attachment")
    assert answer.content == FILE.read_bytes()
    assert "filename*=UTF-8''%C3%9Cbung%201.py" in answer.headers["Content-Disposition"]


def test_files_that_were_sent_are_closed(client: httpx.Client, site: Site) -> None:
    def opened() -> list[str]:
        return [file.path for worker in site.server.workers() for file in worker.open_files() if FILE.name in file.path]

    for headers in ({}, {"Range": "bytes=5-9"}, {"If-None-Match": client.get("/file").headers["ETag"]}):
        for method in ("GET", "HEAD"):
            client.request(method, "/file", headers=headers)
    eventually(lambda: not opened(), what=lambda: f"all closed: {opened()}")


@pytest.mark.parametrize("asked", ["", "bytes=2-4"])
def test_a_file_is_closed_by_what_wraps_it(client: httpx.Client, asked: str) -> None:
    name = f"noted-{uuid.uuid4().hex}-{asked}"
    answer = client.get(f"/noted/{name}", headers={"Range": asked} if asked else {})
    assert answer.content == (b"234" if asked else b"0123456789")
    eventually(lambda: f"closed {name}" in client.get("/events").json())
