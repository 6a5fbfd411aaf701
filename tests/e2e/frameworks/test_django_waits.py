"""Django's responses that take their time: streams, files, views that wait, reloads in mid-request; see django_site."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.frameworks.conftest import DJANGO_SITE, Django
from tests.e2e.frameworks.test_django import together
from tests.e2e.harness import Server

VIEWS = (DJANGO_SITE / "views.py").read_bytes()


def test_pieces_arrive_as_they_are_yielded(django: Django, web: httpx.Client) -> None:
    gate = f"stream-{uuid.uuid4().hex}"
    with django.client() as opener, web.stream("GET", f"/stream/{gate}") as answer:
        lines = answer.iter_lines()
        for number in range(4):
            assert next(lines) == f"line {number}"
            opener.post(f"/open/{gate}")
        assert list(lines) == []
    eventually(lambda: web.get(f"/closed/{gate}").text == "True")


def test_a_hang_up_ends_a_stream(django: Django, web: httpx.Client) -> None:
    gate = f"hang-up-{uuid.uuid4().hex}"
    with django.client() as leaving, leaving.stream("GET", f"/stream/{gate}") as answer:
        assert next(answer.iter_lines()) == "line 0"

    def is_closed() -> bool:
        if django.interface == "wsgi":
            web.post(f"/open/{gate}")  # it hears of the hang-up when it has something to send
        return web.get(f"/closed/{gate}").text == "True"

    eventually(is_closed)


def test_a_file_arrives_whole_and_is_closed(django: Django, web: httpx.Client) -> None:
    for _ in range(10):
        answer = web.get("/file")
        assert (answer.status_code, answer.content) == (200, VIEWS)
        assert answer.headers["Content-Length"] == str(len(VIEWS))
    head = web.head("/file")
    assert (head.headers["Content-Length"], head.content) == (str(len(VIEWS)), b"")
    eventually(lambda: not django.opened("views.py"), what=lambda: f"closed: {django.opened('views.py')}")


def test_sync_views_run_at_the_same_time_in_threads(django: Django) -> None:
    assert len({answer.text for answer in together(django, "/meet/sync")}) == 3


def test_async_views_run_at_the_same_time_in_one_thread(side_by_side: Server) -> None:
    django = Django(side_by_side, "asgi", "www.b.test", persistent=False)
    assert len({answer.text for answer in together(django, "/meet/async")}) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_reload_in_mid_request_lets_it_finish(django: Django, kind: str) -> None:
    file = django.server.directory / f"reload-{kind}"
    (worker,) = django.server.workers()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(django.get, f"/wait/{kind}?file={file}")
        eventually(file.exists)
        assert django.server.command("reload").returncode == 0
        assert not waiting.done()
        file.unlink()
        answer = waiting.result(10)
    assert (answer.status_code, answer.text) == (200, str(worker.pid))
    eventually(lambda: worker not in django.server.workers())
    assert django.get("/visits").text == "1"
