"""Servers with the sites of this directory; those with Flask are started once a module, those with Django once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.conftest import Serve, serving
from tests.e2e.harness import ROOT, Server

FLASK = """
workers.count = 1
workers.threads = 6
http.max_body = "32MiB"
[[route]]
path = "/"
wsgi = "tests.e2e.frameworks.flask_site:app"
[[route]]
path = "/below/checked"
wsgi = "tests.e2e.frameworks.flask_site:checked"
"""
ASGI = """
[[route]]
path = "/asgi"
asgi = "tests.e2e.frameworks.flask_site:asgi"
"""


class Site(NamedTuple):
    """An application of `server`, mounted at `mount`."""

    server: Server
    mount: str

    def client(self) -> httpx.Client:
        """To be closed by the caller; it keeps cookies and connections."""
        base = f"http://127.0.0.1:{self.server.port}{self.mount}"
        return httpx.Client(base_url=base, timeout=15, trust_env=False)


@pytest.fixture(scope="module", params=["inline", "pinned"])
def flask_server(request: pytest.FixtureRequest, serve_module: Serve) -> Iterator[Server]:
    """Flask called by the loop's leader, and beside an ASGI application, where it has threads of its own."""
    server = serve_module(FLASK + (ASGI if request.param == "pinned" else ""))
    yield server
    assert "AssertionError" not in server.stderr  # wsgiref.validate's
    assert "garbage collected without being closed" not in server.stderr  # likewise


@pytest.fixture(params=["", "/below/checked"], ids=["plain", "checked"])
def site(request: pytest.FixtureRequest, flask_server: Server) -> Site:
    """Flask as it is, and below a mount within wsgiref's validator."""
    return Site(flask_server, request.param)


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with site.client() as client:
        yield client


PASSWORD = "correct horse battery staple"
DJANGO_SITE = Path(__file__).parent / "django_site"
DJANGO = """
[workers]
count = 1
threads = 6
env = { CONN_MAX_AGE = "" }
[[route]]
path = "/"
wsgi = "tests.e2e.frameworks.django_site.wsgi:application"
[[route]]
path = "/static/"
files = "collected"
"""
SIDE_BY_SIDE = """
workers.count = 1
workers.threads = 6
[[route]]
host = "a.test"
wsgi = "tests.e2e.frameworks.django_site.wsgi:application"
[[route]]
host = "*.b.test"
asgi = "tests.e2e.frameworks.django_site.asgi:checked"
[[route]]
path = "/flask"
wsgi = "tests.e2e.frameworks.flask_site:checked"
[[route]]
path = "/static/"
host = "a.test"
files = "collected"
[[route]]
path = "/static/"
host = "*.b.test"
files = "collected"
"""


class Django(NamedTuple):
    """The project behind one interface of `server`, for requests to `host`."""

    server: Server
    interface: str
    host: str
    persistent: bool  # CONN_MAX_AGE

    def client(self) -> httpx.Client:
        """To be closed by the caller; it keeps cookies and connections."""
        base = f"http://127.0.0.1:{self.server.port}"
        return httpx.Client(base_url=base, headers={"Host": self.host}, timeout=15, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path)

    def opened(self, name: str) -> list[str]:
        """The files of that name which the workers have open."""
        return [file.path for worker in self.server.workers() for file in worker.open_files() if name in file.path]


@pytest.fixture(scope="package")
def django_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the project's database, in which there is a superuser, and its collected static files."""
    home = tmp_path_factory.mktemp("django")
    env = {**os.environ, "DJANGO_SUPERUSER_PASSWORD": PASSWORD, "PYTHONPATH": str(ROOT)}
    env["DJANGO_SETTINGS_MODULE"] = "tests.e2e.frameworks.django_site.settings"
    script = """
import django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
call_command("createsuperuser", interactive=False, username="root", email="root@test.test", verbosity=0)
call_command("collectstatic", interactive=False, verbosity=0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=home, env=env, check=True, timeout=50)
    return home


@pytest.fixture(scope="package")
def django_alone(tmp_path_factory: pytest.TempPathFactory, django_files: Path) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("alone")
    shutil.copytree(django_files, home, dirs_exist_ok=True)
    with serving(home) as start:
        yield start(DJANGO)


@pytest.fixture(scope="package")
def side_by_side(tmp_path_factory: pytest.TempPathFactory, django_files: Path) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("beside")
    shutil.copytree(django_files, home, dirs_exist_ok=True)
    with serving(home) as start:
        server = start(SIDE_BY_SIDE)
        yield server
        assert "AssertionError" not in server.stderr  # a validator's


@pytest.fixture(params=["wsgi", "threads", "asgi"])
def django(request: pytest.FixtureRequest) -> Django:
    """Django by WSGI, called by the loop's leader; by WSGI beside ASGI, on threads of its own; and by ASGI."""
    if request.param == "wsgi":
        return Django(request.getfixturevalue("django_alone"), "wsgi", "127.0.0.1", True)
    host, interface = ("a.test", "wsgi") if request.param == "threads" else ("www.b.test", "asgi")
    return Django(request.getfixturevalue("side_by_side"), interface, host, False)


@pytest.fixture
def web(django: Django) -> Iterator[httpx.Client]:
    with django.client() as client:
        yield client
