"""How applications are named and found, by real servers: factories, mix-ups, and the surroundings of `[workers]`."""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import Serve

FACTORY = """
import os
from .words import WORD

def create_app(*names):
    def app(environ, start_response):
        start_response("200 OK", [])
        told = [WORD, os.path.basename(os.getcwd()), *(os.environ.get(name, "-") for name in names)]
        return [" ".join(told).encode()]
    return app
"""
FILES = {"src/pkg/__init__.py": "", "src/pkg/web.py": FACTORY, "src/pkg/words.py": 'WORD = "hello"', "home/x": "x"}


def test_a_factory_in_surroundings_of_its_own(serve: Serve) -> None:
    server = serve(
        '[workers]\ncount = 1\nchdir = "home"\npythonpath = ["src"]\nenv = { COLOUR = "red" }\n'
        "[[route]]\napp = \"pkg.web:create_app('COLOUR')\"\n"
        '[[route]]\npath = "/files"\nfiles = "home"\n',
        FILES,
    )
    assert server.get().body == b"hello home red"
    assert server.get("/files/x").body == b"x"  # the config's paths are still relative to where the master started


def test_an_app_dir(serve: Serve) -> None:
    server = serve("[workers]\ncount = 1\n[[route]]\napp = 'pkg.web:create_app()'\n", FILES, args=["--app-dir", "src"])
    assert server.get().body.startswith(b"hello ")


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("wsgi = 'app:asgi'", 'cannot boot: "app:asgi" is an ASGI application; write asgi = "app:asgi"'),
        ("app = 'app:create'", '"app:create" takes no arguments, as a factory does; write "app:create()"'),
        ("app = 'ap:create'", "there is no module `ap` on the path; did you mean `app`?"),
    ],
)
def test_what_is_no_such_application_is_told_without_a_traceback(serve: Serve, route: str, says: str) -> None:
    source = "async def asgi(scope, receive, send): ...\ndef create(): ...\n"
    server = serve(f"[workers]\ncount = 1\n[[route]]\n{route}\n", {"app.py": source}, wait=False)
    assert server.wait_exit() == 1
    assert re.search(re.escape(says), server.stderr)
    assert "Traceback" not in server.stderr
