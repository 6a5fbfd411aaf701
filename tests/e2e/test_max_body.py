"""Bodies that are too large: by which limit, for which route, and who is told."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CONFIG = """
[workers]
count = 1
[http]
max_body = "1KiB"
[[route]]
wsgi = "app:app"
[[route]]
path = "/large"
wsgi = "app:app"
max_body = "8KiB"
[[route]]
path = "/asgi"
asgi = "app:asgi"
lifespan = "off"
max_body = "8KiB"
[[route]]
path = "/any"
wsgi = "app:app"
request_buffering = false
max_body = 0
"""

APP = """
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [str(len(body)).encode()]


async def asgi(scope, receive, send):
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(length).encode()})
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(CONFIG, files={"app.py": APP})


def upload(server: Server, path: str, size: int, field: str = "") -> tuple[int, bytes]:
    """The status and the body of the answer to a body of so many bytes; a head that expects waits for no 100."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}"
    if "chunked" in field:
        data = f"{head}\r\n{size:x}\r\n".encode() + b"x" * size + b"\r\n0\r\n\r\n"
    else:
        data = f"{head}Content-Length: {size}\r\n\r\n".encode() + b"x" * size
    answer = server.raw(data)
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("field", ["", "Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        *(("/", 1024, 200), ("/", 1025, 413), ("/large", 8192, 200), ("/large", 8193, 413)),
        *(("/asgi", 8192, 200), ("/asgi", 8193, 413), ("/asgi/x", 8193, 413), ("/any", 1 << 20, 200)),
    ],
)
def test_a_route_has_its_own_limit_or_the_common_one(
    server: Server, path: str, size: int, status: int, field: str
) -> None:
    told, body = upload(server, path, size, field)
    assert told == status
    assert (str(size).encode() in body) is (status == 200)


@pytest.mark.parametrize(("path", "status"), [("/", b"413"), ("/large", b"100")])
def test_who_waits_to_be_asked_for_a_body_hears_of_the_limit_of_its_route(
    server: Server, path: str, status: bytes
) -> None:
    with server.connect() as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n".encode()
        )
        assert client.recv(65536).split()[1] == status


def test_the_log_names_the_limit_the_size_and_the_target_once_a_minute(serve: Serve) -> None:
    server = serve(CONFIG, files={"app.py": APP})
    for path in ("/?a=b", "/large/x"):
        for _ in range(3):
            assert upload(server, path, 10_000)[0] == 413
    server.wait_log(r"POST /\?a=b: 413, a body of 10000 bytes, but http.max_body is 1024")
    server.wait_log("POST /large/x: 413, a body of 10000 bytes, but max_body of the route /large is 8192")
    assert server.stderr.count(": 413,") == 2


def test_the_command_line_has_the_last_word_on_the_common_limit(serve: Serve) -> None:
    server = serve(CONFIG, files={"app.py": APP}, args=["--max-body", "2KiB"])
    assert [upload(server, "/", size)[0] for size in (2048, 2049)] == [200, 413]
