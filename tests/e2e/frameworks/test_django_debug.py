"""Django with DEBUG, by either interface, below mounts: its pages for errors, and a view that is cancelled."""

from __future__ import annotations

from html import unescape

import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CONFIG = """
workers.count = 1
workers.env = { DEBUG = "1" }
[[route]]
app = "tests.e2e.frameworks.django_site.asgi:checked"
[[route]]
path = "/below/asgi"
app = "tests.e2e.frameworks.django_site.asgi:checked"
[[route]]
path = "/below/wsgi"
app = "tests.e2e.frameworks.django_site.wsgi"
"""


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(CONFIG)


@pytest.mark.parametrize("mount", ["", "/below/asgi", "/below/wsgi"])
def test_the_page_of_an_error_shows_its_traceback(server: Server, mount: str) -> None:
    answer = server.get(f"{mount}/crash?a=b")
    page = unescape(answer.body.decode())
    assert answer.status == 500
    assert "LookupError at /crash" in page
    assert "'a local variable'" in page
    assert f"http://127.0.0.1:{server.port}{mount}/crash?a=b" in page


@pytest.mark.parametrize("mount", ["", "/below/asgi", "/below/wsgi"])
def test_the_page_of_what_is_not_there_shows_what_is(server: Server, mount: str) -> None:
    answer = server.get(f"{mount}/nothing/here")
    page = unescape(answer.body.decode())
    assert answer.status == 404
    assert "the current path, <code>nothing/here</code>" in " ".join(page.split()).replace("The", "the")
    assert "meet/async" in page


def test_a_hang_up_cancels_an_async_view(server: Server) -> None:
    file = server.directory / "cancel"
    with server.connect() as client:
        client.sendall(f"GET /wait/async?file={file} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        eventually(file.exists)
    eventually(file.with_suffix(".cancelled").exists)
