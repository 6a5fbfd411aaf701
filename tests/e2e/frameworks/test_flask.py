"""Flask over HTTP: sessions, uploads, errors, contexts, URLs; see flask_site.py."""

from __future__ import annotations

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.frameworks.conftest import Site
from tests.e2e.frameworks.flask_site import FILE

MIB = 1 << 20


def test_a_signed_session_lasts_over_requests_and_is_not_another_clients(client: httpx.Client, site: Site) -> None:
    assert [client.get("/visits").text.split()[0] for _ in range(5)] == ["1", "2", "3", "4", "5"]
    with site.client() as other:
        assert other.get("/visits").text.startswith("1 of ")
    forged = client.cookies["session"][:-2] + "xx"
    with site.client() as thief:
        assert thief.get("/visits", headers={"Cookie": f"session={forged}"}).text.startswith("1 of ")


def test_several_files_and_fields_of_a_form_arrive(client: httpx.Client) -> None:
    large, small = os.urandom(20 * MIB), b"a,b\r\n--1\r\n"
    answer = client.post(
        "/upload",
        data={"title": "Zoë & Co", "tag": ["a", "b"]},
        files=[
            ("files", ("large.bin", large)),
            ("files", ("übung.csv", small, "text/csv")),
            ("other", ("empty.txt", b"", "text/plain")),
        ],
    )
    assert answer.status_code == 200
    told = answer.json()
    assert told["form"] == {"title": ["Zoë & Co"], "tag": ["a", "b"]}
    digests = [hashlib.sha256(content).hexdigest() for content in (large, small, b"")]
    assert told["files"] == {
        "files": [
            ["large.bin", "application/octet-stream", len(large), digests[0]],
            ["übung.csv", "text/csv", len(small), digests[1]],
        ],
        "other": [["empty.txt", "text/plain", 0, digests[2]]],
    }


def test_a_body_without_length_arrives(client: httpx.Client) -> None:
    pieces = [os.urandom(size) for size in (1, 100_000, 3)]
    answer = client.post("/echo", content=iter(pieces))
    assert (answer.status_code, answer.content) == (200, b"".join(pieces))


def test_bodies_beyond_either_bound_are_413(client: httpx.Client, site: Site) -> None:
    flasks = client.post("/upload", files={"file": ("large.bin", bytes(25 * MIB))})
    assert (flasks.status_code, "exceeds the capacity limit" in flasks.text) == (413, True)
    ours = site.server.get(f"{site.mount}/upload", {"Content-Length": str(33 * MIB)}, "POST")
    assert (ours.status, ours.headers["Connection"]) == (413, "close")
    assert client.get("/visits").status_code == 200


def test_error_handlers_answer(client: httpx.Client, site: Site) -> None:
    assert (client.get("/teapot").status_code, client.get("/teapot").json()) == (418, {"error": "short and stout"})
    missing = client.get("/no/such%20page")
    assert (missing.status_code, missing.text) == (404, f"no /no/such page below {site.mount or '/'}")
    refused = client.put("/teapot")
    assert (refused.status_code, set(refused.headers["Allow"].split(", "))) == (405, {"GET", "HEAD", "OPTIONS"})
    assert client.options("/teapot").status_code == 200


def test_an_exception_is_a_500_and_its_traceback_is_in_the_error_log(client: httpx.Client, site: Site) -> None:
    word = f"{site.mount}{uuid.uuid4().hex}".replace("/", "-")
    answer = client.get(f"/crash/{word}")
    assert (answer.status_code, "Internal Server Error" in answer.text) == (500, True)
    site.server.wait_log(rf"application: .*Exception on /crash/{word} \[GET\]$")
    site.server.wait_log(rf'application:   File "{FILE}", line \d+, in crash$')
    site.server.wait_log(rf"application: LookupError: crash {word}$")
    assert client.get("/visits").status_code == 200


def test_requests_at_the_same_time_have_contexts_of_their_own(site: Site) -> None:
    def ask(name: str) -> dict[str, str]:
        with site.client() as client:
            return client.get(f"/context/{name}").raise_for_status().json()

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(ask, "abcd"))
    assert [each["name"] for each in told] == list("abcd")
    assert [each["path"] for each in told] == [f"/context/{name}" for name in "abcd"]
    assert len({each["thread"] for each in told}) == 4


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_teardown_and_call_on_close_are_called_once(client: httpx.Client, method: str) -> None:
    names = [f"{method}-{uuid.uuid4().hex}" for _ in range(2)]

    def told(name: str) -> list[str]:
        return sorted(event.removesuffix(name) for event in client.get("/events").json() if name in event)

    for name in names:  # by the time of the second request's events, any more of the first would be there
        client.request(method, f"/teardown/{name}")
        eventually(lambda name=name: len(told(name)) >= 2)  # type: ignore[misc]
    assert [told(name) for name in names] == [["on_close ", "teardown "]] * 2


def test_urls_are_built_below_the_mount(client: httpx.Client, site: Site) -> None:
    origin = f"http://127.0.0.1:{site.server.port}"
    latest = client.get("/latest")
    assert (latest.status_code, latest.headers["Location"]) == (302, f"{site.mount}/pages/7/")
    slash = client.get("/pages/7")
    assert (slash.status_code, slash.headers["Location"]) == (308, f"{origin}{site.mount}/pages/7/")
    told = client.get("/pages/7/").json()
    assert told["self"] == f"{origin}{site.mount}/pages/7/"
    assert told["root"] == f"{origin}{site.mount}/"
    static = client.get(origin + told["static"])
    assert (static.status_code, static.content) == (200, FILE.read_bytes())
