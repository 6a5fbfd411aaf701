"""`start --watch`: what is saved is served, what cannot boot is not, and nobody is left watching."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.e2e.apps import links, pids
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CONFIG = '[log]\naccess = ""\n[[route]]\napp = "app:app"\n'
APP = 'def app(environ, start_response):\n    start_response("200 OK", [])\n    return [b"one"]\n'


def watched(serve: Serve, *args: str) -> Server:
    server = serve(CONFIG, {"app.py": APP}, args=["--watch", *args])
    server.wait_log("watching . for changes")
    eventually(lambda: len(server.workers()) == 2, what="the watcher, and one worker")
    watchers(server)
    return server


def watchers(server: Server) -> list[int]:
    """The children that watch all directories there are, waited for: what happens before they do goes unseen."""
    directories = sum(1 for _ in os.walk(server.directory))

    def found() -> list[int]:
        return [child.pid for child in server.workers() if watches(child.pid) >= directories]

    return eventually(found, 10, what="a watcher")


def watches(pid: int) -> int:
    """How many directories a process watches (proc(5), /proc/PID/fdinfo)."""
    count = 0
    with suppress(OSError):  # it has just ended, or closed one of them
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            count += entry.read_text().count("inotify wd:")
    return count


def save(server: Server, text: str, name: str = "app.py") -> None:
    path = server.directory / name
    path.write_text(text)
    os.utime(path, (1_000_000_000, 1_000_000_000))  # the same second each time: no .pyc is told apart by it


def serves(server: Server, body: bytes) -> None:
    eventually(lambda: server.get().body == body, 10, what=lambda: f"{body!r}\n{server.stderr}")


def test_what_is_saved_is_served_even_twice_within_a_second(serve: Serve) -> None:
    server = watched(serve)
    for word in ("two", "six", "ten"):
        save(server, APP.replace("one", word))
        serves(server, word.encode())
    server.wait_log(r"reloading: app\.py changed")


def test_a_syntax_error_keeps_the_old_code_until_the_next_good_save(serve: Serve) -> None:
    server = watched(serve)
    save(server, APP + "x = (\n")
    server.wait_log("SyntaxError: '\\(' was never closed", 10)
    assert server.get().body == b"one"
    save(server, APP.replace("one", "two"))
    serves(server, b"two")


def test_the_configuration_counts_and_ignored_places_do_not(serve: Serve) -> None:
    server = watched(serve)
    (server.directory / "node_modules").mkdir()
    save(server, "", "node_modules/x.py")
    save(server, "", ".hidden.py")
    server.rewrite(CONFIG.replace('app = "app:app"', 'respond = { body = "fixed" }'))
    serves(server, b"fixed")
    assert "x.py" not in server.stderr
    assert ".hidden.py" not in server.stderr


def test_workers_hold_no_end_of_the_watchers_pipe(serve: Serve) -> None:
    server = watched(serve)
    (watcher,) = watchers(server)
    pipe = os.readlink(f"/proc/{watcher}/fd/1")
    assert pipe in links(server.process.pid)
    before = pids(server)
    save(server, APP.replace("one", "two"))
    serves(server, b"two")  # by a worker forked since
    for worker in pids(server) - before:
        assert pipe not in links(worker)


def test_a_watcher_that_dies_is_replaced(serve: Serve) -> None:
    server = watched(serve)
    (first,) = watchers(server)
    os.kill(first, signal.SIGKILL)
    server.wait_log("the watcher died: SIGKILL; replacing it")
    eventually(lambda: [pid for pid in watchers(server) if pid != first], 10, what="another watcher")
    save(server, APP.replace("one", "two"))
    serves(server, b"two")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_watching(serve: Serve, number: signal.Signals) -> None:
    server = watched(serve)
    if number is signal.SIGINT:
        os.killpg(server.process.pid, number)  # as Ctrl-C does
    else:
        server.signal(number)
    server.wait_exit()
    eventually(lambda: not server.family(), 10, what="the end of the watcher")
