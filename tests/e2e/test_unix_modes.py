"""A unix socket with permissions: as configured, changed by a reload on the same socket, and kept where it fails."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from tests.e2e.apps import APP, CONFIG
from tests.e2e.conftest import Serve

UNIX = 'listen = ["127.0.0.1:PORT", {{ address = "unix:app.sock", mode = "{}" }}]\n' + CONFIG


def test_a_reload_changes_the_mode_of_the_very_socket_unless_it_fails(serve: Serve) -> None:
    server = serve(UNIX.format("600"), {"app.py": APP})
    path = server.directory / "app.sock"

    def mode() -> int:
        return stat.S_IMODE(path.stat().st_mode)

    inode = path.stat().st_ino
    assert mode() == 0o600
    server.rewrite(UNIX.format("666"))
    (server.directory / "app.py").write_text("raise RuntimeError")
    assert server.command("reload").returncode == 1
    assert mode() == 0o600
    (server.directory / "app.py").write_text(APP)
    assert server.command("reload").returncode == 0
    assert mode() == 0o666
    assert path.stat().st_ino == inode
    assert b"one" in ask(path)


def ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(os.path.relpath(path))
        client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))
