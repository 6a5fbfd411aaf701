"""Flask and Django, WSGI and ASGI, in one worker, told apart by host and by path; and each by its name alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server


def test_hosts_and_paths_lead_to_their_applications_at_the_same_time(side_by_side: Server) -> None:
    def ask(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{side_by_side.port}", timeout=15, trust_env=False) as client:
            for turn in range(1, 6):
                flask = client.get("/flask/visits")
                assert flask.text.startswith(f"{turn} of "), (number, flask)
                for host, kind in (("a.test", "WSGIRequest"), (f"w{number}.b.test", "ASGIRequest")):
                    answer = client.get("/protected", headers={"Host": host})
                    assert (answer.status_code, answer.text) == (200, kind)
                assert client.get("/static/admin/css/base.css", headers={"Host": "a.test"}).status_code == 200
                assert client.get("/protected").status_code == 404  # no host's

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_a_view_that_waits_in_one_holds_up_no_other(side_by_side: Server) -> None:
    file = side_by_side.directory / "side-by-side"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(side_by_side.get, f"/wait/sync?file={file}", {"Host": "a.test"})
        eventually(file.exists)
        assert side_by_side.get("/flask/visits").status == 200
        for host in ("a.test", "w.b.test"):
            assert side_by_side.get("/protected", {"Host": host}).status == 200
        assert not waiting.done()
        file.unlink()
        assert waiting.result(10).status == 200


@pytest.mark.parametrize(
    ("target", "path", "says"),
    [
        ("tests.e2e.frameworks.flask_site", "/visits", b"1 of "),
        ("tests.e2e.frameworks.django_site.wsgi", "/protected", b"WSGIRequest"),
        ("tests.e2e.frameworks.django_site.asgi", "/protected", b"ASGIRequest"),
    ],
)
def test_an_application_is_served_by_its_name_alone(serve: Serve, target: str, path: str, says: bytes) -> None:
    server = serve("workers.count = 1\n", args=[target])
    assert server.get(path).body.startswith(says)
