"""A first generation that cannot boot: `start` says why, in the application's own words, exits 1 and leaves nothing."""

from __future__ import annotations

import re
import signal

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, PAIR
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server


def see_that_nothing_is_left(server: Server) -> None:
    assert server.family() == []
    assert not (server.directory / "run").exists()
    assert server.stdout == ""
    with pytest.raises(ConnectionRefusedError):
        server.connect().close()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import settings_of_mine\n", ["import settings_of_mine", "No module named 'settings_of_mine'"]),
        ("def app(environ, start_response:\n", ["app.py", "SyntaxError"]),
        ("def setup():\n    return 1 / 0\n\nsetup()\n", ["in setup", "ZeroDivisionError: division by zero"]),
        ("raise RuntimeError('name: caf\\udce9 \\ud800')\n", [r"RuntimeError: name: caf\udce9 \ud800"]),
        ("raise SystemExit('no database here')\n", ["SystemExit: no database here"]),
        ("raise BaseException('from below')\n", ["BaseException: from below"]),
        ("class E(Exception):\n    __str__ = None\nraise E\n", ["app.E"]),
        ("raise ValueError('x' * 1_000_000)\n", ["ValueError: xxx"]),
        ("import os\nos._exit(3)\n", ["exit status 3"]),
        ("import os\nos.kill(os.getpid(), 9)\n", ["SIGKILL"]),
        ("import os\nos.kill(os.getpid(), 11)\n", ["SIGSEGV"]),
        ("import os\nos.closerange(3, 100)\n", ["cannot start"]),
    ],
)
def test_start_tells_what_the_application_died_of(serve: Serve, source: str, said: list[str]) -> None:
    server = serve(PAIR, {"app.py": source}, wait=False)
    assert server.wait_exit() == 1
    for words in said:
        assert words in server.stderr
    see_that_nothing_is_left(server)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("application = 1\n", "module `app` has no attribute `app`"),
        ("app = 'a text'\n", "not callable"),
        ("", "module `app` has no attribute `app`"),
    ],
)
def test_a_target_that_leads_nowhere_is_told_in_one_line(serve: Serve, source: str, said: str) -> None:
    server = serve(CONFIG, {"app.py": source}, wait=False)
    assert server.wait_exit() == 1
    (line,) = [line for line in server.stderr.splitlines() if said in line]
    assert "cannot start" in line
    assert "Traceback" not in server.stderr
    see_that_nothing_is_left(server)


def test_a_module_that_is_missing_is_told_in_one_line(serve: Serve) -> None:
    server = serve(PAIR.replace("app:app", "apq:app"), {"app.py": ""}, wait=False)
    assert server.wait_exit() == 1
    assert "there is no module `apq`" in server.stderr
    assert "Traceback" not in server.stderr
    see_that_nothing_is_left(server)


def test_the_traceback_is_told_once_however_many_workers_there_are(serve: Serve) -> None:
    server = serve(PAIR, {"app.py": "1 / 0\n"}, wait=False)
    assert server.wait_exit() == 1
    assert server.stderr.count("Traceback (most recent call last)") == 1, server.stderr


def test_what_goes_to_a_log_file_is_told_at_the_terminal_too(serve: Serve) -> None:
    config = CONFIG.replace("[log]", '[log]\nerror = "error.log"')
    server = serve(config, {"app.py": "1 / 0\n"}, wait=False)
    assert server.wait_exit() == 1
    for text in (server.stderr, (server.directory / "error.log").read_text()):
        assert "ZeroDivisionError" in text
        assert "1 / 0" in text


HANGS = {
    "an import": ("wsgi", "import time\ndef connect():\n    time.sleep(1000)  # here\nconnect()\n"),
    "an import that computes in C": (
        "wsgi",
        "import re\ndef connect():\n    re.match('(a+)+$', 'a' * 60 + 'b')  # here\nconnect()\n",
    ),
    "a lifespan": (
        "asgi",
        """
import asyncio
from contextlib import asynccontextmanager

@asynccontextmanager
async def lifespan():
    await connect()
    yield

async def connect():
    await asyncio.sleep(1000)  # here

async def app(scope, receive, send):
    async with lifespan():
        pass
""",
    ),
}


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize(("kind", "source"), HANGS.values(), ids=HANGS)
def test_an_application_that_hangs_is_given_up_and_shown_where_it_is(
    serve: Serve, kind: str, source: str, preload: bool
) -> None:
    config = CONFIG.replace("[log]", f"boot_timeout = 0.5\npreload = {str(preload).lower()}\n[log]")
    server = serve(config.replace("wsgi", kind), {"app.py": source}, wait=False)
    assert server.wait_exit() == 1
    assert re.search(r"(worker|template) \d+ was not ready within 0.5 s \(workers.boot_timeout\)", server.stderr)
    line = source[: source.index("# here")].count("\n") + 1
    assert re.search(rf'File ".*/app\.py", line {line},? in connect', server.stderr)
    see_that_nothing_is_left(server)


def test_one_worker_that_cannot_boot_is_enough_to_fail(serve: Serve) -> None:
    source = "import os\nos.mkdir('first')\n\ndef app(environ, start_response): pass\n"
    server = serve(PAIR, {"app.py": source}, wait=False)  # whoever comes second finds the directory made
    assert server.wait_exit() == 1
    assert "FileExistsError" in server.stderr
    see_that_nothing_is_left(server)


def test_a_process_that_the_application_forks_does_not_keep_the_worker_from_being_ready(serve: Serve) -> None:
    source = """
import os, time

worker = os.getpid()  # told before the fork: the child may run only once the worker has gone
if os.fork() == 0:
    while os.getppid() == worker:
        time.sleep(0.02)
    os._exit(0)

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"here"]
"""
    server = serve(CONFIG, {"app.py": source})
    assert server.get().body == b"here"


def test_a_stop_during_the_first_boot_is_obeyed_at_once(serve: Serve) -> None:
    source = "import time\nopen('entered', 'w').close()\ntime.sleep(1000)\n"
    server = serve(PAIR, {"app.py": source}, wait=False)
    eventually((server.directory / "entered").exists, what="the application's import")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    see_that_nothing_is_left(server)


def test_a_stop_as_soon_as_there_is_a_pid_file_is_obeyed_and_leaves_nothing(serve: Serve) -> None:
    for _ in range(5):
        server = serve(CONFIG, {"app.py": APP}, wait=False)
        eventually((server.directory / "run/prefork.pid").exists, what="the pid file")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert not (server.directory / "run").exists()


def test_what_an_exception_holds_does_not_reach_the_terminal_by_start_nor_by_reload(serve: Serve) -> None:
    nasty = "raise RuntimeError('\\x1b]0;owned\\x07 \\x9b2J')\n"
    config = CONFIG.replace("[log]", '[log]\nerror = "error.log"')
    server = serve(config, {"app.py": nasty}, wait=False)
    assert server.wait_exit() == 1
    server = serve(config, {"app.py": APP})
    (server.directory / "app.py").write_text(nasty)
    reloaded = server.command("reload").stderr
    for shown in (reloaded, (server.directory.parent / "stderr.log").read_text()):
        assert "RuntimeError: \\x1B]0;owned\\x07 \\x9B2J" in shown
        assert all(character == "\n" or character.isprintable() for character in shown)


def test_an_import_that_closes_what_is_the_servers_is_told_of_with_the_place_where_that_is_missed(serve: Serve) -> None:
    """As libraries do that make daemons: os.closerange(3, ...)."""
    server = serve(CONFIG, {"app.py": f"{APP}\nos.closerange(3, 1000)\n"}, wait=False)
    assert server.wait_exit(5) == 1
    server.wait_log(r"critical: worker \d+ cannot boot: OSError")
    server.wait_log("Traceback")
