"""Django over HTTP, by WSGI, by WSGI on threads beside ASGI, and by ASGI: pages, forms, database; see django_site."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.frameworks.conftest import PASSWORD, Django

FORM = "application/x-www-form-urlencoded"
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]*)"')


def token(page: httpx.Response) -> str:
    found = TOKEN.search(page.text)
    assert found, page.text
    return unescape(found[1])


def together(django: Django, path: str, count: int = 3) -> list[httpx.Response]:
    """Answers to as many requests at a time, each on a connection of its own."""

    def ask(_: int) -> httpx.Response:
        with django.client() as client:
            return client.get(path).raise_for_status()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_the_admin_logs_in_and_adds_a_user(django: Django, web: httpx.Client) -> None:
    user = f"zoë@{django.host}"
    login = web.get("/admin/", follow_redirects=True)
    for link in re.findall(r'(?:href|src)="(/static/[^"]*)"', login.text):
        assert web.get(link).raise_for_status().content
    fields = {"csrfmiddlewaretoken": token(login), "username": "root", "password": PASSWORD, "next": "/admin/"}
    welcome = web.post("/admin/login/", data=fields, follow_redirects=True)
    assert (welcome.status_code, "Site administration" in welcome.text) == (200, True)
    fields = {"csrfmiddlewaretoken": token(web.get("/admin/auth/user/add/")), "username": user, "_save": "Save"}
    fields |= {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    assert web.post("/admin/auth/user/add/", data=fields).status_code == 302
    assert f"{user}</a>” was added" in unescape(web.get("/admin/auth/user/").text)
    assert user in web.get("/users").text.splitlines()


def test_a_form_without_its_token_is_refused(django: Django, web: httpx.Client) -> None:
    answer = web.post("/protected", data={"a": "b"})
    assert (answer.status_code, "CSRF" in answer.text) == (403, True)
    web.get("/admin/login/")
    fine = web.post("/protected", data={"csrfmiddlewaretoken": web.cookies["csrftoken"]})
    assert (fine.status_code, fine.text) == (200, "ASGIRequest" if django.interface == "asgi" else "WSGIRequest")
    foreign = web.post("/protected", headers={"X-CSRFToken": web.cookies["csrftoken"], "Origin": "http://evil.test"})
    assert foreign.status_code == 403


def test_a_session_lasts_over_requests(web: httpx.Client) -> None:
    assert [web.get("/visits").text for _ in range(4)] == ["1", "2", "3", "4"]


def test_the_cache_keeps_pages_and_values(web: httpx.Client) -> None:
    first = web.get("/cached")
    assert re.fullmatch("max-age=(60|59)", first.headers["Cache-Control"])
    assert web.get("/cached").text == first.text
    assert web.get("/remember").text == web.get("/remember").text


def test_uploads_are_spooled_and_whole(web: httpx.Client) -> None:
    for size, kind in ((5 << 20, "TemporaryUploadedFile"), (5000, "InMemoryUploadedFile")):
        content = os.urandom(size)
        told = web.post("/upload", files={"file": ("übung.bin", content)}, data={"title": "Zoë"}).json()
        assert told["files"] == {"file": ["übung.bin", size, hashlib.sha256(content).hexdigest(), kind]}
        assert told["form"] == {"title": "Zoë"}
    chunked = web.post("/upload", content=iter([b"a=1", b"&b=2"]), headers={"Content-Type": FORM})
    assert chunked.json()["form"] == {"a": "1", "b": "2"}
    too_much = web.post("/upload", content=b"a=" + b"1" * (3 << 20), headers={"Content-Type": FORM})
    assert too_much.status_code == 400  # DATA_UPLOAD_MAX_MEMORY_SIZE


def test_a_request_that_fails_is_rolled_back(web: httpx.Client) -> None:
    name = uuid.uuid4().hex
    assert web.post(f"/group/{name}", params={"break": ""}).status_code == 500
    assert web.get(f"/group/{name}").text == "False"
    assert web.post(f"/group/{name}").text == "True"
    assert web.get(f"/group/{name}").text == "True"


def test_threads_have_connections_to_the_database_of_their_own(django: Django) -> None:
    told = [answer.json() for _ in range(4) for answer in together(django, "/connection")]
    assert {each["users"] for each in told} <= {1, 2, 3}
    threads = {each["thread"] for each in told}
    assert len(threads) >= 3
    if django.persistent:
        kept = {(each["thread"], each["connection"]) for each in told}
        assert len(kept) == len(threads)  # the same connection in every request of a thread
    else:
        eventually(lambda: not django.opened("db.sqlite3"), what=lambda: f"closed: {django.opened('db.sqlite3')}")


def test_rows_are_streamed_by_the_thread_that_reads_them(django: Django) -> None:
    for answer in together(django, "/users", 4):
        assert answer.text.startswith("root\n")
    assert "can only be used in that same thread" not in django.server.stderr


def test_a_crash_is_a_500_and_its_traceback_is_in_the_log(django: Django, web: httpx.Client) -> None:
    answer = web.get("/crash")
    assert (answer.status_code, "Server Error (500)" in answer.text) == (500, True)
    django.server.wait_log("^Internal Server Error: /crash$")
    django.server.wait_log("^LookupError: crash, 16$")
    assert web.get("/nothing").status_code == 404
    foreign = web.get("/visits", headers={"Host": "evil.example"})
    assert foreign.status_code == (400 if django.persistent else 404)  # Django's ALLOWED_HOSTS; no route


@pytest.mark.parametrize("path", ["/visits", "/nap"])
def test_middleware_of_each_kind_is_passed(django: Django, path: str) -> None:
    answer = django.get(path)
    assert answer.status_code == 200
    assert answer.headers["X-Both"] in ("sync", "async")  # as those before and behind it are
    assert (answer.headers["X-Sync"], answer.headers["X-Async"]) == ("yes", "yes")
