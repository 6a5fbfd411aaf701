"""The examples: each configuration is valid, short and commented, and those without a module of their own work."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.e2e import examples
from tests.e2e.conftest import Serve
from tests.e2e.examples import NAMES
from tests.e2e.harness import ROOT, Server


def check(home: Path) -> subprocess.CompletedProcess[str]:
    """`prefork check` of the example in that directory."""
    return subprocess.run(
        [sys.executable, "-m", "prefork", "check", "-c", "server.toml"],
        cwd=home,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_there_is_one_for_each_kind_of_application() -> None:
    assert {"django", "django-asgi", "flask", "static"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_passes_the_check_as_it_stands(name: str, tmp_path: Path) -> None:
    examples.copy(name, tmp_path)
    if name == "django":
        (tmp_path / "collected").mkdir()  # by manage.py collectstatic, as the file says
    result = check(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "good" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_is_short_and_says_how_to_start_it(name: str) -> None:
    lines = (examples.EXAMPLES / name / "server.toml").read_text().splitlines()
    assert len(lines) < 30
    assert lines[0].startswith("# ")
    assert any("bin/prefork start -c server.toml" in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_django_without_its_collected_files_is_told_which_key_is_wrong(tmp_path: Path) -> None:
    examples.copy("django", tmp_path)
    result = check(tmp_path)
    assert result.returncode == 2
    assert "route[1].files.root" in result.stderr
    assert '"collected"' in result.stderr


@pytest.fixture
def site(serve: Serve, tmp_path: Path) -> Server:
    examples.copy("static", tmp_path)
    return serve(examples.config("static"), args=["--workers", "1"])


def test_the_static_site(site: Server) -> None:
    page = site.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Cache-Control"] == "max-age=300"
    for link in re.findall(r'(?:href)="(/[^"]*)"', page.body.decode()):
        assert site.get(link).status == 200, link
    assert site.get("/style.css").headers["Content-Type"] == "text/css; charset=utf-8"
    assert site.get("/", {"If-None-Match": page.headers["ETag"]}).status == 304
    about = site.get("/about")
    assert (about.status, about.headers["Location"]) == (301, "/about/")
    assert b"About." in site.get("/about/").body
    old = site.get("/old/page")
    assert (old.status, old.headers["Location"]) == (301, "/about/")
    missing = site.get("/nothing")
    assert (missing.status, missing.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert missing.body == b"404 Not Found\n"
    assert site.get("/", method="POST").status == 405
    assert site.get("/%2e%2e/server.toml").status in (400, 404)


def test_django_by_asgi(serve: Serve, tmp_path: Path) -> None:
    examples.copy("django-asgi", tmp_path)
    site = serve(examples.config("django-asgi"), args=["--workers", "1"])
    assert re.search(r"Two pauses of 0\.1 s took \d+\.\d\d s\.", site.get("/").body.decode())
    assert site.get("/sync").body.startswith(b"called in ThreadPoolExecutor")
    with closing(HTTPConnection("127.0.0.1", site.port, timeout=10)) as connection:
        connection.request("GET", "/clock")
        assert re.fullmatch(rb"\d\d:\d\d:\d\d\n", connection.getresponse().readline())
    assert site.get("/nothing").status == 404
