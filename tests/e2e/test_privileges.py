"""`user`, `group` and `umask`: the master binds as root, the workers are somebody else, from the import on."""

from __future__ import annotations

import os
import pwd
import random
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, links, pids
from tests.e2e.conftest import Serve, serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

WHO = """
import os

AT_IMPORT = (os.getuid(), os.getgid())


def app(environ, start_response):
    start_response("200 OK", [])
    try:
        os.setuid(0)
        return [b"root again"]
    except PermissionError:
        pass
    return [repr((AT_IMPORT, os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"])).encode()]
"""
USER = '[master]\nuser = "nobody"\numask = "077"\n'
LOGGED = USER + CONFIG.replace('access = ""', 'error = "logs/error.log"\naccess = "logs/access.log"')


@pytest.fixture
def serve_openly() -> Iterator[Serve]:
    """`serve` in a directory that everybody may enter."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    with serving(directory) as serve:
        yield serve
    shutil.rmtree(directory)


def privileged_port() -> int:
    """One that only root may bind, and that is free now."""
    while True:
        port = random.SystemRandom().randrange(600, 1000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def test_workers_are_the_user_from_the_import_on_and_for_good(serve_openly: Serve) -> None:
    port = privileged_port()
    server = serve_openly(
        f'listen = ["127.0.0.1:PORT", "127.0.0.1:{port}"]\n{LOGGED}', {"app.py": WHO, "logs/.keep": ""}
    )
    (server.directory / "logs").chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    user, group = nobody.pw_uid, nobody.pw_gid
    expected = ((user, group), (user,) * 3, (group,) * 3, [group], nobody.pw_dir)
    assert server.get().body == repr(expected).encode()
    socket.create_connection(("127.0.0.1", port)).close()
    assert server.master.uids().real == 0

    logs = [server.directory / f"logs/{name}.log" for name in ("error", "access")]
    assert {(log.stat().st_uid, log.stat().st_mode & 0o777) for log in logs} == {(user, 0o600)}
    for log in logs:
        log.rename(log.with_suffix(".old"))
    server.signal(signal.SIGUSR1)
    for pid in pids(server):
        eventually(lambda pid=pid: set(map(str, logs)) <= set(links(pid)), what="the new files")
    server.get("/after")
    eventually(lambda: "/after" in logs[1].read_text())
    assert "cannot reopen" not in logs[0].read_text()

    server.rewrite(server.config.read_text().replace("nobody", "root"))
    assert server.command("reload").returncode == 0
    assert re.search(r"\[master\] has changed: that takes effect with the next start", logs[0].read_text())
    assert server.get().body == repr(expected).encode()


@pytest.mark.parametrize("preload", [False, True])
def test_an_error_page_is_read_by_the_user_so_a_link_to_what_is_roots_shows_nothing(
    serve_openly: Serve, preload: bool
) -> None:
    config = f'[error_pages]\n404 = "pages/404.html"\n{USER}{CONFIG}' + '\n[[route]]\npath = "/none"\nfiles = "pages"\n'
    config = config.replace("[workers]", f"[workers]\npreload = {str(preload).lower()}")
    server = serve_openly(config, {"app.py": APP, "pages/404.html": "nothing", "secret": "root's alone"})
    assert server.get("/none/x").body == b"nothing"
    page = server.directory / "pages/404.html"
    (server.directory / "secret").chmod(0o600)
    page.unlink()
    page.symlink_to("../secret")
    done = server.command("reload")
    assert done.returncode == 1
    assert re.search(
        r"cannot boot: error_pages: pages/404.html cannot be read by nobody: Permission denied$", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert server.get("/none/x").body == b"nothing"


def test_applications_as_root_are_warned_of(serve: Serve) -> None:
    server = serve(CONFIG, {"app.py": APP})
    server.wait_log(r'warning: applications run as root: name a "user" in \[master\]')
