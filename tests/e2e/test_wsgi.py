"""WSGI over real HTTP: one worker, one application with a path for each claim."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, read_all

APP = '''
import gzip, hashlib, io, json, os, sys, time
from wsgiref.validate import validator


@validator
def validated(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {key: value for key, value in environ.items() if isinstance(value, (str, int))}
    return [json.dumps({**told, "body": body.decode("latin-1")}).encode()]


class Closing:
    """Says in the error log when it is closed."""

    def __init__(self, pieces, errors, name):
        self.pieces, self.errors, self.name = pieces, errors, name

    def __iter__(self):
        return iter(self.pieces)

    def close(self):
        print("closed:", self.name, file=self.errors)


def endless():
    while True:
        yield b"x" * 65536


def gated(gate):
    yield b"first"
    while not os.path.exists(gate):
        yield b""
    yield b"last"


def broken():
    yield b"begun"
    raise ValueError("broken off")


def app(environ, start_response):
    path, query, errors = environ["PATH_INFO"], environ["QUERY_STRING"], environ["wsgi.errors"]
    if path.startswith("/validated"):
        return validated(environ, start_response)
    if path == "/exit":
        sys.exit("an application has no business to do this")
    if path == "/complain":
        print("caf\\u00e9 \\x1b[2J", file=errors)
    if path == "/split":
        start_response("200 OK", [("X-A", "1\\r\\nX-Split: yes")])
        return [b""]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/pid":
        return [str(os.getpid()).encode()]
    if path == "/endless":
        return Closing(endless(), errors, "endless" + query)
    if path == "/gated":
        return gated(query)
    if path == "/broken":
        return Closing(broken(), errors, "broken")
    if path == "/digest":
        digest = hashlib.sha256()
        while piece := environ["wsgi.input"].read(10_000):
            digest.update(piece)
        return [digest.hexdigest().encode()]
    if path == "/file":
        return environ["wsgi.file_wrapper"](open(query, "rb"))
    if path == "/gzip":
        return environ["wsgi.file_wrapper"](io.BufferedReader(gzip.open(query)))
    return [path.encode("latin-1")]
'''

CONFIG = """
listen = ["127.0.0.1:PORT", "unix:run/app.sock"]
[workers]
count = 1
[http]
body_buffer = "4KiB"
[[route]]
path = "/"
wsgi = "app:app"
[[route]]
path = "/one"
wsgi = "app:app"
[[route]]
path = "/two/"
wsgi = "app:app"
[[route]]
path = "/fixed"
respond = { body = "fixed" }
"""

BIG = bytes(range(256)) * 40_000  # 10 MB


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(CONFIG, {"app.py": APP, "big": BIG, "run/.keep": ""})


@pytest.fixture(autouse=True)
def the_worker_lives(server: Server) -> object:
    before = server.get("/pid").body
    yield
    assert server.get("/pid").body == before


def idle_descriptors(server: Server, worker: psutil.Process) -> int:
    """How many descriptors the worker has open when nobody is connected; 0 while somebody is."""
    (row,) = json.loads(server.command("status", "--json").stdout)["workers"]
    return 0 if row["connections"] else worker.num_fds()


def told(server: Server, target: str, **how: object) -> dict[str, object]:
    answer = server.get(target, **how)  # type: ignore[arg-type]
    assert answer.status == 200
    environ = json.loads(answer.body)
    assert isinstance(environ, dict)
    return environ


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("body", [None, b"", b"abc"])
def test_the_validator_finds_nothing(server: Server, method: str, body: bytes | None) -> None:
    environ = told(server, "/validated/caf%C3%A9?a=%20b", method=method, body=body)
    assert environ["REQUEST_METHOD"] == method
    assert environ["PATH_INFO"] == "/validated/café".encode().decode("latin-1")
    assert environ["QUERY_STRING"] == "a=%20b"
    assert environ["body"] == (body or b"").decode()
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert environ["HTTP_HOST"] == f"127.0.0.1:{server.port}"
    assert environ["wsgi.multiprocess"] is True


def test_the_application_learns_its_clients_address(server: Server) -> None:
    with server.connect() as connection:
        port = connection.getsockname()[1]
        connection.sendall(b"GET /validated HTTP/1.0\r\n\r\n")
        answer = read_all(connection)
    environ = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", str(port))
    assert "HTTP_HOST" not in environ


def test_a_client_on_a_unix_socket_passes_the_validator_too(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(server.directory / "run" / "app.sock"))
        connection.sendall(b"GET /validated HTTP/1.0\r\nHost: example.com\r\n\r\n")
        answer = read_all(connection)
    environ = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (environ["REMOTE_ADDR"], environ["HTTP_HOST"]) == ("", "example.com")


@pytest.mark.parametrize(
    ("target", "script_name", "path_info"),
    [
        ("/validated", "", "/validated"),
        ("/one/validated", "/one", "/validated"),
        ("/two/validated/x", "/two", "/validated/x"),
        ("/onetwo/../validated", "", "/validated"),
    ],
)
def test_each_route_mounts_the_application(server: Server, target: str, script_name: str, path_info: str) -> None:
    environ = told(server, target)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_the_mount_itself_is_an_empty_path_info(server: Server) -> None:
    assert [server.get(target).body for target in ("/one", "/one/", "/two", "/two/")] == [b"", b"/", b"", b"/"]


def test_each_piece_is_with_the_client_before_the_next_is_made(server: Server) -> None:
    gate = server.directory / "gate"
    with server.connect() as connection:
        connection.sendall(b"GET /gated?gate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while b"5\r\nfirst\r\n" not in received:
            received += connection.recv(65536)
        assert server.get("/pid").status == 200  # what waits by yielding nothing stands in nobody's way
        gate.touch()
        received += read_all(connection)
    assert received.endswith(b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n")


def test_an_endless_stream_to_a_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(server.connect())
            connection.sendall(b"GET /endless?unread HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1)
        for _ in range(20):
            assert server.get("/pid").status == server.get("/fixed").status == 200
    server.wait_log("closed: endlessunread")


def test_an_endless_stream_to_a_client_that_reads_it_all_holds_nobody_up(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /endless?read HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            for _ in range(10):
                assert connection.recv(1 << 20)
            assert server.get("/pid").status == 200
    server.wait_log("closed: endlessread")


def test_a_client_that_hangs_up_in_mid_stream_has_its_stream_closed_once(server: Server) -> None:
    for number in range(3):
        with server.connect() as connection:
            connection.sendall(f"GET /endless?gone{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(1000)
    for number in range(3):
        server.wait_log(f"closed: endlessgone{number}")
        assert server.stderr.count(f"closed: endlessgone{number}") == 1


def test_a_response_that_breaks_off_is_seen_to_be_broken_and_logged(server: Server) -> None:
    answer = server.raw(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"\r\n5\r\nbegun\r\n")
    server.wait_log(r"error: GET /broken failed: ValueError\('broken off'\)")
    server.wait_log(r"^ .*in broken$")
    server.wait_log("closed: broken")


def test_head_has_the_head_of_get(server: Server) -> None:
    assert server.get("/pid", method="HEAD").body == b""
    with server.connect() as connection:
        connection.sendall(b"HEAD /endless?head HTTP/1.1\r\nHost: x\r\n\r\nGET /fixed HTTP/1.0\r\n\r\n")
        answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.endswith(b"\r\n\r\nfixed")
    server.wait_log("closed: endlesshead")


def test_an_application_that_exits_is_a_500_and_the_worker_lives(server: Server) -> None:
    assert server.get("/exit").status == 500
    server.wait_log(r"error: GET /exit failed: SystemExit\('an application has no business to do this'\)")


def test_a_header_that_would_split_the_response_is_a_500(server: Server) -> None:
    answer = server.raw(b"GET /split HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Split" not in answer
    server.wait_log(r"error: GET /split failed: ApplicationError")


def test_wsgi_errors_is_the_error_log_and_nothing_in_it_steers_a_terminal(server: Server) -> None:
    assert server.get("/complain").status == 200
    server.wait_log(r"\] application: café \\x1B\[2J$")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_arrives_whole_and_leaves_no_file_open(server: Server, chunked: bool) -> None:
    (worker,) = server.workers()
    before = eventually(lambda: idle_descriptors(server, worker))
    body = os.urandom(3_000_000)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for _ in range(2):
        pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000)) if chunked else body
        connection.request("POST", "/digest", pieces, encode_chunked=chunked)
        assert connection.getresponse().read() == hashlib.sha256(body).hexdigest().encode()
    connection.close()
    eventually(lambda: worker.num_fds() == before, what=lambda: f"{before} open descriptors, not {worker.num_fds()}")


def test_a_file_of_the_wrapper_arrives_whole_and_is_closed(server: Server) -> None:
    (worker,) = server.workers()
    before = eventually(lambda: idle_descriptors(server, worker))
    answer = server.get("/file?big")
    assert (answer.headers["Content-Length"], answer.body == BIG) == (str(len(BIG)), True)
    with server.connect() as connection:  # and once more by a client that leaves
        connection.sendall(b"GET /file?big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000)
    eventually(lambda: worker.num_fds() == before, what=lambda: f"{before} open descriptors, not {worker.num_fds()}")


def test_a_packed_file_of_the_wrapper_is_not_sent_as_it_lies_on_disk(server: Server) -> None:
    Path(server.directory, "big.gz").write_bytes(gzip.compress(BIG[:1_000_000]))
    answer = server.get("/gzip?big.gz")
    assert (answer.status, answer.body == BIG[:1_000_000]) == (200, True)


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /gated?open HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = b""
        while not answer.endswith(b"first"):
            answer += connection.recv(65536)
        Path(server.directory, "open").touch()
        answer += read_all(connection)
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\nfirstlast")
