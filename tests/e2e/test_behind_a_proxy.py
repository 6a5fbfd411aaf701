"""Behind nginx, over TCP and over a unix socket: whom the application sees, and that everything passes through."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import eventually, needs
from tests.e2e.apps import status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, free_port

MiB = 1 << 20

CONFIG = """
listen = ["LISTEN"]
[workers]
count = 2
[http]
trusted_proxies = PROXIES
trusted_fields = "FIELDS"
max_body = "6MiB"
[log]
access = "access.log"
[[route]]
wsgi = "app:app"
"""

# Answers with its environ, and what it was sent, as JSON; below /pieces with 5 MiB in pieces of 64 KiB.
APP = """
import hashlib
import json


def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/pieces":
        return (bytes([number]) * 65536 for number in range(80))
    body = environ["wsgi.input"].read()
    answer = {name: value for name, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**answer, "sha256": hashlib.sha256(body).hexdigest()}).encode()]
"""

# master_process off: one process, which stays whoever started it, and may use the test's directory.
NGINX = """
daemon off; master_process off; pid nginx.pid;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path nginx.body; proxy_temp_path nginx.proxy; fastcgi_temp_path nginx.fastcgi;
    uwsgi_temp_path nginx.uwsgi; scgi_temp_path nginx.scgi;
    client_max_body_size 0;
    upstream prefork { server UPSTREAM; keepalive 32; }
    proxy_http_version 1.1;
    server {
        listen 127.0.0.1:PORT backlog=1024;
        set $for 198.51.100.7;
        set $standard "";  # an empty field is not sent
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Forwarded-For $for;
        proxy_set_header Forwarded $standard;
        location / { proxy_pass http://prefork; }
        location /other {
            set $for 203.0.113.7;
            proxy_pass http://prefork;
        }
        location /passing {
            set $standard $http_forwarded;  # as nginx does with what it knows nothing of
            proxy_pass http://prefork;
        }
        location /added {
            set $for "$http_x_forwarded_for, 198.51.100.7";
            proxy_pass http://prefork;
        }
        location /standard {
            set $standard 'for="[2001:db8::7]:4711";proto=https;by=198.51.100.1';
            proxy_pass http://prefork;
        }
        location /unbuffered {
            set $for "";
            proxy_pass http://prefork;
            proxy_request_buffering off;
        }
    }
}
"""

TRUSTED = '["127.0.0.1", "unix"]'


class Site(NamedTuple):
    """A server, and the port of the nginx in front of it."""

    server: Server
    port: int

    def open(self) -> HTTPConnection:
        """A connection to nginx; the caller closes it."""
        return HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, path: str = "/", method: str = "GET", **rest: Any) -> dict[str, Any]:
        """The application's answer to one request through nginx."""
        with closing(self.open()) as connection:
            connection.request(method, path, **rest)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            answer: dict[str, Any] = json.loads(body)
            return answer

    def wait_line(self, pattern: str) -> None:
        """Until the access log has a line that begins so."""
        log = self.server.directory / "access.log"
        eventually(lambda: re.search(f"^{pattern}", log.read_text(), re.MULTILINE), what=lambda: log.read_text())


@contextmanager
def nginx(directory: Path, upstream: str) -> Iterator[int]:
    """nginx in front of `upstream`, run in `directory`; its port."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(NGINX.replace("UPSTREAM", upstream).replace("PORT", str(port)))
    command = ["nginx", "-e", "nginx.log", "-p", f"{directory}/", "-c", str(config)]
    process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL)
    try:

        def is_there() -> bool:
            assert process.poll() is None, (directory / "nginx.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        eventually(is_there, 10, what="an nginx that listens")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def start(serve: Serve, stack: ExitStack, listener: str, proxies: str | None, fields: str = "x-forwarded") -> Site:
    needs("nginx")
    listen = {"tcp": "127.0.0.1:PORT", "unix": "unix:run/app.sock"}[listener]
    config = CONFIG if proxies else CONFIG.replace("trusted_proxies = PROXIES\n", "")
    config = config.replace("LISTEN", listen).replace("PROXIES", proxies or "").replace("FIELDS", fields)
    server = serve(config, files={"app.py": APP})
    return Site(server, stack.enter_context(nginx(server.directory, listen.replace("PORT", str(server.port)))))


@pytest.fixture(scope="module", params=["tcp", "unix"])
def site(request: pytest.FixtureRequest, serve_module: Serve) -> Iterator[Site]:
    """A server that trusts its nginx."""
    with ExitStack() as stack:
        yield start(serve_module, stack, request.param, TRUSTED)


def test_the_application_sees_the_client_that_nginx_names(site: Site) -> None:
    seen = site.ask("/a%20b?c=d", headers={"Host": "www.example.com"})
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("198.51.100.7", "0")
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "www.example.com")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("www.example.com", "443")
    assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/a b", "c=d")
    assert seen["HTTP_X_FORWARDED_FOR"] == "198.51.100.7"


def test_forwarded_is_believed_where_it_is_what_the_proxy_writes(serve: Serve) -> None:
    with ExitStack() as stack:
        site = start(serve, stack, "tcp", TRUSTED, "forwarded")
        seen = site.ask("/standard")
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("2001:db8::7", "https")
        assert [name for name in seen if "FORWARDED" in name] == ["HTTP_FORWARDED"]


def test_forwarded_that_nginx_passes_on_from_its_client_is_dropped(site: Site) -> None:
    seen = site.ask("/passing", headers={"Forwarded": "for=10.0.0.1;proto=gopher"})
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("198.51.100.7", "https")
    assert "HTTP_FORWARDED" not in seen


def test_what_the_client_itself_says_is_not_believed(site: Site) -> None:
    seen = site.ask("/added", headers={"X-Forwarded-For": "203.0.113.9, 10.0.0.1", "X-Forwarded-Proto": "gopher"})
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("198.51.100.7", "https")


def test_one_connection_to_the_server_may_serve_many_clients(site: Site) -> None:
    site.ask()
    before = status(site.server)["totals"]["accepted"]
    first, second, nobody, third = [site.ask(path)["REMOTE_ADDR"] for path in ("/", "/other", "/unbuffered", "/")]
    assert (first, second, third) == ("198.51.100.7", "203.0.113.7", "198.51.100.7")
    assert nobody in ("", "127.0.0.1")  # then it is nginx itself
    assert status(site.server)["totals"]["accepted"] == before


def test_the_access_log_shows_the_client(site: Site) -> None:
    site.ask("/logged")
    site.wait_line(r'198\.51\.100\.7 - - .* "GET /logged HTTP/1\.1" 200 ')


def test_the_access_log_shows_the_client_of_a_refused_request_too(site: Site) -> None:
    with closing(site.open()) as connection:
        connection.request("POST", "/too-much", bytes(7 * MiB))
        assert connection.getresponse().status == 413
    site.wait_line(r'198\.51\.100\.7 - - .* "POST /too-much HTTP/1\.1" 413 ')


def test_nginx_keeps_its_connections(site: Site) -> None:
    before = status(site.server)["totals"]["accepted"]
    with closing(site.open()) as connection:
        for _ in range(100):
            connection.request("GET", "/")
            assert connection.getresponse().read()
    assert status(site.server)["totals"]["accepted"] - before <= 2


@pytest.mark.parametrize("path", ["/", "/unbuffered"])
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_a_large_upload_passes_through(site: Site, path: str, chunked: bool) -> None:
    body = bytes(range(256)) * (5 * MiB // 256)
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    seen = site.ask(path, "POST", body=pieces if chunked else body, encode_chunked=chunked)
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()
    assert seen["CONTENT_LENGTH"] == str(len(body))


def test_a_download_in_pieces_passes_through(site: Site) -> None:
    with closing(site.open()) as connection:
        for _ in range(2):
            connection.request("GET", "/pieces")
            response = connection.getresponse()
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert response.read() == b"".join(bytes([number]) * 65536 for number in range(80))


def test_reloads_under_proxied_load_are_not_noticed(site: Site) -> None:
    needs("wrk")
    generation = status(site.server)["master"]["generation"]
    command = ["wrk", "-t1", "-c32", "-d3", "--timeout", "30", f"http://127.0.0.1:{site.port}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        try:
            for number in range(generation + 1, generation + 4):
                site.server.signal(signal.SIGHUP)
                site.server.wait_log(f"generation {number} serves", within=20)
                site.server.wait_log(f"generation {number - 1} has left", within=20)
            report = load.communicate()[0]
        finally:
            load.kill()
    found = re.search(r"(\d+) requests in", report)
    assert found, report
    assert int(found[1]) > 100
    assert "Non-2xx" not in report, (site.server.directory / "nginx.log").read_text()
    assert "Socket errors" not in report, report


@pytest.mark.parametrize(
    ("listener", "proxies", "address"),
    [
        ("tcp", '["10.0.0.0/8", "unix"]', "127.0.0.1"),
        ("unix", '["127.0.0.1"]', ""),
    ],
)
def test_what_an_untrusted_proxy_says_does_not_reach_the_application(
    serve: Serve, listener: str, proxies: str, address: str
) -> None:
    with ExitStack() as stack:
        site = start(serve, stack, listener, proxies)
        for path in ("/", "/added", "/standard"):
            seen = site.ask(path, headers={"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Port": "1"})
            assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == (address, "http")
            assert [name for name in seen if "FORWARDED" in name] == []
        site.wait_line(rf'{re.escape(address) or "-"} - - .* "GET /standard ')


def test_without_trusted_proxies_the_server_believes_nobody(serve: Serve) -> None:
    with ExitStack() as stack:
        site = start(serve, stack, "tcp", "[]")
        for path in ("/", "/added", "/standard"):
            seen = site.ask(path)
            assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("127.0.0.1", "http")
            assert [name for name in seen if "FORWARDED" in name] == []
        site.wait_line(r'127\.0\.0\.1 - - .* "GET /standard ')


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_proxy_on_this_machine_is_trusted_unless_told_otherwise(serve: Serve, listener: str) -> None:
    with ExitStack() as stack:
        site = start(serve, stack, listener, None)
        seen = site.ask("/", headers={"Remote-User": "root", "X-Forwarded-Prefix": "/admin"})
        assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("198.51.100.7", "https")
        assert "HTTP_REMOTE_USER" not in seen
        assert "HTTP_X_FORWARDED_PREFIX" not in seen
        site.server.wait_log("passes on remote-user, x-forwarded-prefix; dropped, as http.trusted_fields")
