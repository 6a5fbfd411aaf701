"""A PostgreSQL server of one's own: made in a temporary directory, reached by a unix socket there, removed in the end.

Debian's package is what it looks for, or a `postgres` in PATH. The server refuses to run as root: then it runs as the
user `postgres`, or else `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DEBIAN = "usr/lib/postgresql/*/bin/postgres"
TIMEOUT = 30.0  # seconds for a start or a stop
SETTINGS = ("listen_addresses=", "fsync=off", "shared_buffers=16MB", "max_connections=100", "autovacuum=off")


class Failed(Exception):
    """The database does not do what it has to; the message says what, with its last words."""


def programs() -> Path | None:
    """The directory of initdb, postgres and pg_isready, the newest of Debian's; None where there is none."""
    found = [path.parent for path in Path("/").glob(DEBIAN)]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    in_path = shutil.which("postgres")
    return Path(in_path).resolve().parent if in_path else None


class PostgreSQL:
    """The server. `environment`: the variables by which libpq, and so psycopg and psql, find it."""

    def __init__(self, directory: Path) -> None:
        """Make a database there, in an empty directory. Raises Failed."""
        place = programs()
        if place is None:
            raise Failed("PostgreSQL is not installed")
        self.environment = {"PGHOST": str(directory), "PGUSER": "prefork", "PGDATABASE": "postgres"}
        self._programs = place
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _user()
            os.chown(directory, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        options = [
            "-D",
            str(directory / "data"),
            "-U",
            "prefork",
            "--auth=trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        self._run("initdb", *options)

    def start(self) -> None:
        """Until it accepts clients. Raises Failed."""
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        command = [str(self._programs / "postgres"), "-D", str(self._directory / "data"), "-k", str(self._directory)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *settings],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
            )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._directory)]
        deadline = time.monotonic() + TIMEOUT
        while subprocess.run(ready).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"postgres does not start: {self.log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """As `pg_ctl stop -m fast` does: sessions are ended, their queries broken off. It may be started again."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, and the last resort
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT)
                return

    def execute(self, statement: str) -> str:
        """What psql prints for it, unaligned. Raises Failed."""
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement)

    @property
    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _run(self, program: str, *options: str) -> str:
        environment = {**os.environ, **self.environment}
        command = [str(self._programs / program), *options]
        result = subprocess.run(
            command, cwd=self._directory, env=environment, capture_output=True, text=True, **self._as
        )
        if result.returncode:
            raise Failed(f"{program}: {result.stderr.strip()}")
        return str(result.stdout).strip()


def _user() -> pwd.struct_passwd:
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server that accepts clients; stopped, and its files removed, in the end. Raises Failed."""
    # Below the common directory: its user has to reach it.
    with tempfile.TemporaryDirectory(prefix="prefork-postgresql-") as name:
        server = PostgreSQL(Path(name))
        try:
            server.start()
            yield server
        finally:
            server.stop()
