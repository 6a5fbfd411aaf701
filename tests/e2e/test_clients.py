"""Clients as people use them: curl, ab, http.client and httpx, each with what it does in its own way."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs
from tests.e2e.apps import ECHO, SITE, connect, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

MiB = 1 << 20


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Iterator[Server]:
    server = serve_module(SITE, files={"app.py": ECHO, "public/hello.txt": "hello"})
    with undisturbed(server):
        yield server


class Curl:
    """`curl` against one server; `{url}` in its arguments stands for the server's."""

    def __init__(self, server: Server) -> None:
        self.url = f"http://127.0.0.1:{server.port}"

    def __call__(self, *args: str, stdin: bytes = b"") -> str:
        """What it prints, with `-v` its trace of the conversation as well; fails where curl does."""
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "20"]
        done = subprocess.run(
            [*command, *(arg.replace("{url}", self.url) for arg in args)],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        text = done.stdout.decode("latin-1")
        assert done.returncode == 0, text
        return text

    def json(self, *args: str, stdin: bytes = b"") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self(*args, stdin=stdin))
        return answer


@pytest.fixture
def curl(server: Server) -> Curl:
    needs("curl")
    return Curl(server)


def test_curl_speaks_1_1_and_1_0(curl: Curl) -> None:
    assert curl.json("{url}/a?b=c")["protocol"] == "HTTP/1.1"
    assert curl.json("-0", "{url}/")["protocol"] == "HTTP/1.0"
    assert curl("-0", "{url}/words") == "one two three"


def test_curl_asks_for_two_urls_on_one_connection(curl: Curl) -> None:
    answers = [json.loads(line) for line in curl("-w", "\\n", "{url}/one", "{url}/two").splitlines()]
    assert [answer["path"] for answer in answers] == ["/one", "/two"]
    assert answers[0]["client"] == answers[1]["client"]


def test_curl_keeps_a_1_0_connection_where_it_asks_to(curl: Curl) -> None:
    answers = curl("-0", "-H", "Connection: keep-alive", "-w", "\\n", "{url}/one", "{url}/two").splitlines()
    assert json.loads(answers[0])["client"] == json.loads(answers[1])["client"]


def test_curl_head_shows_the_length_that_get_has(curl: Curl) -> None:
    assert "Content-Length: 5\r\n" in curl("--head", "{url}/files/hello.txt")
    assert "200 OK" in curl("--head", "{url}/words", "{url}/words")  # the second one follows no body


def test_curl_dot_segments_are_resolved_as_curl_itself_would(curl: Curl) -> None:
    assert curl.json("--path-as-is", "{url}/a/../b/./c")["path"] == "/b/c"
    assert curl("--path-as-is", "{url}/a/../files/x/../hello.txt") == "hello"
    assert curl("--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", "{url}/files/../../etc/passwd") == "400"


def test_curl_uploads_a_stream_in_chunks(curl: Curl) -> None:
    answer = curl.json("-T", "-", "{url}/", stdin=b"x" * MiB)
    assert answer["method"] == "PUT"
    assert answer["length"] == MiB


def test_curl_uploads_form_fields_and_files(curl: Curl, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * MiB)
    assert curl.json("-d", "a=b", "-b", "c=d", "{url}/")["length"] == 3
    assert curl.json("-F", f"file=@{file}", "{url}/")["length"] > MiB


WAITING = ["-v", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-"]


@pytest.mark.parametrize("size", [1, 10 * MiB])
def test_curl_waits_to_be_told_to_continue(curl: Curl, size: int) -> None:
    conversation = curl(*WAITING, "{url}/", stdin=bytes(size))
    assert "< HTTP/1.1 100 Continue" in conversation
    assert f'"length": {size}' in conversation


def test_curl_is_spared_an_upload_that_is_too_large(curl: Curl) -> None:
    conversation = curl(*WAITING, "{url}/", stdin=bytes(17 * MiB))
    assert "100 Continue" not in conversation
    assert "< HTTP/1.1 413 " in conversation


def test_curl_reads_slowly(curl: Curl) -> None:
    assert len(curl("--limit-rate", "20M", "{url}/big")) == 10_000_000


def test_curl_fetches_in_parallel(curl: Curl, tmp_path: Path) -> None:
    curl("--parallel", "--parallel-max", "10", "-o", f"{tmp_path}/#1", "{url}/words?[1-50]")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["one two three"] * 50


def test_curl_finds_no_http_2_and_goes_on_with_1_1(curl: Curl) -> None:
    assert curl.json("--http2", "{url}/")["protocol"] == "HTTP/1.1"


@pytest.mark.parametrize("path", ["/", "/files/hello.txt", "/words"])
@pytest.mark.parametrize("flags", [[], ["-k"], ["-i"], ["-k", "-i"]], ids=" ".join)
def test_ab_sees_no_failure(server: Server, flags: list[str], path: str) -> None:
    needs("ab")
    command = ["ab", "-q", "-l", "-n", "500", "-c", "10", *flags, f"http://127.0.0.1:{server.port}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Complete requests: +500$", done.stdout, re.MULTILINE)
    assert re.search(r"^Failed requests: +0$", done.stdout, re.MULTILINE), done.stdout
    assert "Non-2xx" not in done.stdout


def test_http_client_reuses_its_connection(server: Server) -> None:
    with closing(connect(server)) as connection:
        answers = []
        for number in range(100):
            body = bytes(number * 1000)
            connection.request("POST", "/", iter([body]) if number % 2 else body, encode_chunked=True)
            answers.append(json.loads(connection.getresponse().read()))
        assert [answer["length"] for answer in answers] == [number * 1000 for number in range(100)]
        assert len({answer["client"] for answer in answers}) == 1


def test_httpx_reuses_its_connections_for_everything(server: Server) -> None:
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=10) as client:
        clients = set()
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            answer = client.request(method, "/ä?ö", content=b"hello").json()
            assert (answer["method"], answer["length"]) == (method, 5)
            assert answer["path"].encode("latin-1").decode() == "/ä"
            clients.add(answer["client"])
        assert client.head("/").content == b""
        assert client.get("/words").text == "one two three"
        assert client.get("/files/none").status_code == 404
        with client.stream("GET", "/big") as response:
            assert sum(len(piece) for piece in response.iter_bytes()) == 10_000_000
        clients.add(client.post("/", content=(b"x" for _ in range(10))).json()["client"])
        assert len(clients) == 1
