"""The directory that the server was started in: replaced by a deploy, removed, and known by its name all the time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, NEW, serving
from tests.e2e.harness import Server, free_port, is_alive

CONFIG = """
[master]
pid_file = "HOME/run/prefork.pid"
control = "HOME/run/prefork.sock"
[workers]
count = 1
probation = 0
WORKERS
[log]
access = ""
[[route]]
path = "/"
wsgi = "app:app"
"""
STATUS = '[[route]]\npath = "/"\nstatus = true\n'


class Deployed(Server):
    """A Server in `current`, a symlink to the first of two releases; its configuration and its files are beside it."""

    def __init__(self, directory: Path, config: str, workers: str) -> None:
        self.current = directory / "current"
        for number, code in (("1", APP), ("2", NEW)):
            (directory / "releases" / number).mkdir(parents=True)
            (directory / "releases" / number / "app.py").write_text(code)
        self.lead_to("1")
        super().__init__(directory, config.replace("WORKERS", workers).replace("HOME", str(directory)))

    def launch(self) -> None:
        self.port = free_port()
        self.rewrite(self.text)
        env = {**self.env, "PYTHONPATH": self.env["PYTHONPATH"].split(os.pathsep)[0], "PWD": str(self.current)}
        with open(self.directory / "stdout.log", "wb") as stdout, open(self.directory / "stderr.log", "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "prefork", "start", "-c", str(self.config)],
                cwd=self.current,
                env=env,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.master = psutil.Process(self.process.pid)

    def lead_to(self, release: str) -> None:
        """Have `current` lead there."""
        self.current.unlink(missing_ok=True)
        self.current.symlink_to(f"releases/{release}")

    def remove(self, release: str) -> None:
        shutil.rmtree(self.directory / "releases" / release)

    def kill_worker(self) -> None:
        """Until there is another in its place."""
        (before,) = serving(self)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: serving(self) - {before}, what=lambda: f"another worker\n{self.stderr}")

    @property
    def version(self) -> bytes:
        return self.get("/version").body


Deploy = Callable[..., Deployed]


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Deploy]:
    servers: list[Deployed] = []

    def deploy(workers: str = "", config: str = CONFIG) -> Deployed:
        server = Deployed(tmp_path, config, workers)
        servers.append(server)
        server.wait_ready()
        return server

    yield deploy
    for server in servers:
        server.close()


@pytest.mark.parametrize("preload", ["", "preload = true"])
def test_where_paths_are_absolute_all_goes_on_when_the_release_is_removed(deploy: Deploy, preload: str) -> None:
    server = deploy(f'chdir = "HOME/current"\n{preload}')
    server.lead_to("2")
    server.remove("1")
    server.kill_worker()
    assert server.version == (b"one" if preload else b"two")
    assert server.command("reload").returncode == 0
    assert server.version == b"two"
    old = server.master
    assert server.command("upgrade").returncode == 0
    server.master = psutil.Process(int((server.directory / "run/prefork.pid").read_text()))
    eventually(lambda: not is_alive(old), 10)
    assert server.version == b"two"
    assert "relative paths" not in server.stderr.partition("upgrading")[2]


def test_a_generation_stays_in_its_release_and_a_reload_goes_to_the_one_of_now(deploy: Deploy) -> None:
    server = deploy()
    server.lead_to("2")
    server.kill_worker()
    assert server.version == b"one"
    code = server.directory / "releases/2/app.py"
    code.write_text("1 / 0")
    assert server.command("reload").returncode == 1
    server.kill_worker()
    assert server.version == b"one"
    code.write_text(NEW)
    assert server.command("reload").returncode == 0
    assert server.version == b"two"


def test_a_release_that_is_removed_before_the_reload_is_replaced_by_the_one_of_now(deploy: Deploy) -> None:
    server = deploy()
    server.lead_to("2")
    server.remove("1")
    server.kill_worker()
    assert server.version == b"two"
    server.wait_log(f"{server.current}, where this server was started, has been replaced; going on in the new one")


def test_where_a_path_is_relative_and_leads_nowhere_the_command_says_why(deploy: Deploy) -> None:
    server = deploy('pythonpath = ["."]')
    server.current.unlink()
    server.remove("1")
    for command in ("reload", "upgrade"):
        done = server.command(command)
        assert done.returncode == 1
        why = f"(cannot enter {server.current}, where this server was started: No such file or directory)"
        said = done.stderr.splitlines()[-1]
        assert "there is no module `app` on the path; --app-dir, or workers.pythonpath, adds" in said
        assert said.endswith(why)
    assert server.version == b"one"


def test_who_needs_no_directory_does_without(deploy: Deploy) -> None:
    server = deploy(config=CONFIG[: CONFIG.index("[[route]]")] + STATUS)
    server.current.unlink()
    server.remove("1")
    assert server.command("reload").returncode == 0
    assert server.command("upgrade").returncode == 0
    server.master = psutil.Process(int((server.directory / "run/prefork.pid").read_text()))
    assert server.get().status == 200
    server.wait_log("relative paths lead nowhere")
