"""Error pages of a running server: a path that nobody answers, a refused request, an application that fails."""

from __future__ import annotations

from tests.e2e.conftest import Serve

CONFIG = """
[workers]
count = 1
[log]
access = ""
[error_pages]
404 = "pages/404.html"
400 = "pages/400.html"
500 = "pages/500.html"
[[route]]
path = "/app"
wsgi = "app:app"
"""
APP = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise RuntimeError("on purpose")
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"the application's own"]
"""
FILES = {"app.py": APP, **{f"pages/{status}.html": f"page {status}" for status in (400, 404, 500)}}


def test_the_servers_own_answers_show_the_operators_pages(serve: Serve) -> None:
    server = serve(CONFIG, FILES)
    assert (server.get("/x").status, server.get("/x").body) == (404, b"page 404")
    assert (server.get("/app/fails").status, server.get("/app/fails").body) == (500, b"page 500")
    assert server.raw(b"GET / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\npage 400")
    assert server.get("/app/other").body == b"the application's own"


def test_a_page_that_does_not_exist_is_a_config_error(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP}, wait=False)
    assert server.wait_exit() == 2
    assert 'config/server.toml: error_pages.404: expected an existing file, got "pages/404.html"' in server.stderr
