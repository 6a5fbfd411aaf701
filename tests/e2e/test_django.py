"""A real Django project, the one of config/examples/django, with its admin, on two workers and sqlite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.e2e import examples
from tests.e2e.conftest import Serve
from tests.e2e.examples import Browser, found
from tests.e2e.harness import Server

PASSWORD = "correct horse battery staple"
TOKEN = r'name="csrfmiddlewaretoken" value="([^"]*)"'


def manage(home: Path, *command: str) -> None:
    """`python manage.py COMMAND`, as the example's server.toml tells its reader."""
    env = {**os.environ, "DJANGO_SUPERUSER_PASSWORD": PASSWORD, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "manage.py", *command], cwd=home, env=env, stdout=subprocess.DEVNULL, check=True, timeout=50
    )


@pytest.fixture(scope="module")
def server(serve_module: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    home = tmp_path_factory.mktemp("django")
    examples.copy("django", home)
    manage(home, "migrate")
    manage(home, "createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
    manage(home, "collectstatic", "--noinput")
    return serve_module(examples.config("django"), examples.contents(home), ["--workers", "2"])


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    with Browser(server.port) as browser:
        yield browser


def log_in(browser: Browser, **headers: str) -> None:
    token = found(TOKEN, browser.get("/admin/login/"))
    fields = {"csrfmiddlewaretoken": token, "username": "root", "password": PASSWORD, "next": "/admin/"}
    answer = browser.post("/admin/login/", fields, **headers)
    assert (answer.status, answer.headers["Location"]) == (302, "/admin/"), answer


def test_the_login_page_comes_with_all_its_files(browser: Browser) -> None:
    answer = browser.get("/admin/")
    assert (answer.status, answer.headers["Location"]) == (302, "/admin/login/?next=/admin/")
    page = browser.get(answer.headers["Location"])
    assert page.status == 200
    links = re.findall(r'(?:href|src)="(/static/[^"]*)"', page.body.decode())
    assert any(link.endswith(".css") for link in links)
    assert any(link.endswith(".js") for link in links)
    for link in links:
        file = browser.get(link)
        assert (file.status, file.headers["Cache-Control"]) == (200, "max-age=3600"), link
        assert file.headers["Content-Type"] == f"text/{'css' if link.endswith('.css') else 'javascript'}; charset=utf-8"
        assert file.body


def test_the_superuser_logs_in_and_adds_a_user(browser: Browser) -> None:
    log_in(browser)
    assert b"Site administration" in browser.get("/admin/").body
    form = browser.get("/admin/auth/user/add/")
    fields = {
        "csrfmiddlewaretoken": found(TOKEN, form),
        "username": "zoë",
        "usable_password": "true",
        "password1": PASSWORD,
        "password2": PASSWORD,
        "_save": "Save",
    }
    answer = browser.post("/admin/auth/user/add/", fields)
    assert answer.status == 302, answer
    assert re.fullmatch(r"/admin/auth/user/\d+/change/", answer.headers["Location"])
    users = browser.get("/admin/auth/user/")
    assert "zoë" in users.body.decode()
    assert b"There are 2 users." in browser.get("/").body


def test_the_host_field_decides_whether_a_form_is_from_here(server: Server) -> None:
    with Browser(server.port, "shop.localhost") as browser:
        log_in(browser)
    with Browser(server.port, "shop.localhost") as browser:
        token = found(TOKEN, browser.get("/admin/login/"))
        fields = {"csrfmiddlewaretoken": token, "username": "root", "password": PASSWORD}
        assert browser.post("/admin/login/", fields, Origin="http://evil.example").status == 403
        assert browser.post("/admin/login/", fields, Origin=f"http://shop.localhost:{server.port + 1}").status == 403
        del fields["csrfmiddlewaretoken"]
        assert browser.post("/admin/login/", fields).status == 403
    with Browser(server.port, "evil.example") as browser:
        assert browser.get("/").status == 400  # ALLOWED_HOSTS


def test_a_streaming_response_arrives_whole_and_the_connection_lives(browser: Browser) -> None:
    for _ in range(2):
        answer = browser.get("/squares.csv")
        assert (answer.status, answer.body) == (200, examples.squares())


def test_a_file_response_arrives_whole_and_is_closed(server: Server, browser: Browser) -> None:
    source = (examples.EXAMPLES / "django" / "project" / "views.py").read_bytes()
    for _ in range(20):
        answer = browser.get("/source")
        assert (answer.status, answer.body) == (200, source)
        assert answer.headers["Content-Length"] == str(len(source))

    def opened() -> list[str]:
        return [file.path for worker in server.workers() for file in worker.open_files() if "views.py" in file.path]

    eventually(lambda: not opened(), what=lambda: f"all closed: {opened()}")


def test_an_error_is_a_500_and_a_traceback_in_the_log(server: Server, browser: Browser) -> None:
    answer = browser.get("/broken")
    assert (answer.status, b"Server Error (500)" in answer.body) == (500, True)
    server.wait_log("^Internal Server Error: /broken$")
    server.wait_log("^ZeroDivisionError$")
    assert browser.get("/").status == 200


def test_what_is_not_there_is_djangos_404(browser: Browser) -> None:
    assert browser.get("/nothing").status == 404
    assert browser.get("/static/nothing.css").body == b"404 Not Found\n"  # and this one is the server's
