"""Under systemd: sockets that it passes, and what it is told; a real datagram socket stands in for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import CONFIG
from tests.e2e.harness import ROOT, is_alive, read_all, suspend

APP = """
import os


def app(environ, start_response):
    start_response("200 OK", [])
    return [repr(sorted(name for name in os.environ if name.startswith(("LISTEN", "NOTIFY", "WATCHDOG")))).encode()]
"""
# as systemd does: descriptors from 3 on, and the pid of the very process
LAUNCH = """
import os
import sys

descriptors = [os.dup2(os.dup(int(text)), 64 + number) for number, text in enumerate(sys.argv[1].split(","))]
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 3 + number)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ["LISTEN_FDS"] = str(len(descriptors))
os.execv(sys.executable, [sys.executable, "-m", "prefork", "start", "-c", "server.toml"])
"""


class Manager:
    """Passes `sockets`, listens to what the server says, and tells the main process from it."""

    def __init__(self, directory: Path, config: str, notify: str = "") -> None:
        self.directory = directory
        self.said: list[dict[str, str]] = []
        (directory / "app.py").write_text(APP)
        (directory / "server.toml").write_text(config)
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.mailbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.mailbox.setblocking(False)
        if notify:
            self.mailbox.bind(f"\0{notify[1:]}" if notify.startswith("@") else notify)
            self.env["NOTIFY_SOCKET"] = notify
        self.main = psutil.Process()

    @contextmanager
    def service(self, sockets: Sequence[socket.socket] = (), **variables: str) -> Iterator[subprocess.Popen[str]]:
        descriptors = [passed.fileno() for passed in sockets]
        start = [sys.executable, "-c", LAUNCH, ",".join(map(str, descriptors))]
        with subprocess.Popen(
            start if sockets else [sys.executable, "-m", "prefork", "start", "-c", "server.toml"],
            cwd=self.directory,
            env={**self.env, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            text=True,
        ) as process:
            self.main = psutil.Process(process.pid)
            try:
                yield process
            finally:
                if is_alive(self.main):
                    self.main.terminate()
                process.communicate(timeout=10)
                eventually(lambda: not is_alive(self.main), 10, what="the end of the service")

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefork", *args, "-c", "server.toml"]
        return subprocess.run(command, cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=20)

    def hear(self, condition: Callable[[dict[str, str]], object]) -> dict[str, str]:
        """The first message from now on for which `condition` holds; those before it are forgotten."""

        def look() -> dict[str, str] | None:
            try:
                text = self.mailbox.recv(65536).decode()
            except BlockingIOError:
                return None
            self.said.append(dict(line.split("=", 1) for line in text.split("\n")))
            return self.said[-1] if condition(self.said[-1]) else None

        found = eventually(look, 10, what=lambda: f"such a message; {self.said[-5:]}")
        assert found
        return found


Manage = Callable[..., Manager]


@pytest.fixture
def manage(tmp_path: Path) -> Iterator[Manage]:
    """`manage(config, notify)`: a Manager whose services run in `tmp_path`."""
    managers: list[Manager] = []

    def make(config: str, notify: str = "") -> Manager:
        managers.append(Manager(tmp_path, config, notify))
        return managers[-1]

    yield make
    for manager in managers:
        manager.mailbox.close()


def listening(where: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    listener.bind(where)
    listener.listen()
    return listener


def begin(where: str | tuple[str, int]) -> socket.socket:
    """A client who has asked."""
    client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    client.settimeout(10)
    client.connect(where)
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return client


def get(where: str | tuple[str, int]) -> bytes:
    with begin(where) as client:
        return read_all(client)


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert "serving" in line, process.stderr and process.stderr.read()
    return line


def test_passed_sockets_are_served_and_outlive_an_upgrade_and_a_stop(manage: Manage, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    with listening(("127.0.0.1", 0)) as tcp, listening(path) as unix:
        where = tcp.getsockname()
        manager = manage(f'listen = ["systemd:web", "systemd"]\n{CONFIG}')
        with manager.service([tcp, unix], LISTEN_FDNAMES="web:other") as process:
            line = ready(process)
            assert f"http://127.0.0.1:{where[1]}/" in line
            assert f"unix:{path}" in line
            assert get(where).endswith(b"\r\n\r\n[]")
            assert get(path).endswith(b"\r\n\r\n[]")
            assert manager.run("reload").returncode == 0
            done = manager.run("upgrade")
            assert (done.returncode, done.stderr) == (0, "")
            manager.main = psutil.Process(int((tmp_path / "run/prefork.pid").read_text()))
            assert get(where).endswith(b"\r\n\r\n[]")
            assert get(path).endswith(b"\r\n\r\n[]")
            assert manager.run("reload").returncode == 0
            assert manager.run("stop").returncode == 0
        waiting = [begin(where), begin(path)]  # nobody serves now, and nobody is turned away
        with manager.service([tcp, unix], LISTEN_FDNAMES="web:other") as process:
            for client in waiting:
                with client:
                    assert read_all(client).endswith(b"\r\n\r\n[]")


@pytest.mark.parametrize(
    ("listen", "variables", "refusal"),
    [
        (
            "systemd:web",
            {},
            r'the service manager passes a socket for 127.0.0.1:\d+ ("admin"), which `listen` does not',
        ),
        ("systemd:none", {}, 'listen: no socket for "systemd:none"; the service manager passes "web", "admin"'),
        ("systemd", {"LISTEN_PID": "1"}, 'listen: no socket for "systemd"; the service manager passes none'),
        ("127.0.0.1:0", {}, r"the service manager passes a socket for 127.0.0.1:\d+ ("),
    ],
)
def test_a_passed_socket_and_listen_must_fit(
    manage: Manage, listen: str, variables: dict[str, str], refusal: str
) -> None:
    manager = manage(f'listen = "{listen}"\n{CONFIG}')
    with listening(("127.0.0.1", 0)) as web, listening(("127.0.0.1", 0)) as admin:
        with manager.service([web, admin], LISTEN_FDNAMES="web:admin", **variables) as process:
            out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err.count("\n")) == (1, "", 1)
        for part in refusal.split(r"\d+"):
            assert part in err


def test_what_is_no_listening_socket_is_refused(manage: Manage) -> None:
    manager = manage(f'listen = "systemd"\n{CONFIG}')
    with socket.socket() as deaf, manager.service([deaf]) as process:
        assert "LISTEN_FDS: descriptor 3 is no listening stream socket" in process.communicate(timeout=20)[1]


@pytest.mark.parametrize("abstract", [True, False])
def test_the_service_manager_hears_how_the_server_stands(manage: Manage, tmp_path: Path, abstract: bool) -> None:
    name = f"@prefork-{uuid.uuid4().hex}" if abstract else os.path.relpath(tmp_path / "notify")
    manager = manage(f'listen = "127.0.0.1:0"\n{CONFIG}', name)
    manager.env["NOTIFY_SOCKET"] = name if abstract else str(tmp_path / "notify")
    with manager.service() as process:
        assert manager.hear(lambda said: "READY" in said)["STATUS"] == "generation 1 serves with 1 worker"
        process.send_signal(signal.SIGHUP)
        begun = manager.hear(lambda said: True)
        assert begun["RELOADING"] == "1"
        assert int(begun["MONOTONIC_USEC"]) > 0
        assert manager.hear(lambda said: True) == {"READY": "1", "STATUS": "generation 2 serves with 1 worker"}
        (tmp_path / "app.py").write_text("1 / 0")
        process.send_signal(signal.SIGHUP)
        assert "RELOADING" in manager.hear(lambda said: True)
        told = manager.hear(lambda said: True)
        assert told["READY"] == "1"
        assert told["STATUS"].startswith("generation 2 serves with 1 worker; the last reload failed: worker ")
        (tmp_path / "app.py").write_text(APP)
        process.send_signal(signal.SIGUSR2)
        pid = int(manager.hear(lambda said: "MAINPID" in said)["MAINPID"])
        assert process.wait(10) == 0
        assert all("STOPPING" not in said for said in manager.said)
        assert pid == int((tmp_path / "run/prefork.pid").read_text())
        manager.main = psutil.Process(pid)
        (tmp_path / "app.py").write_text("raise ValueError('gone')")
        manager.main.children()[0].kill()
        assert "died: SIGKILL" in manager.hear(lambda said: "0 of 1 worker serve; " in said["STATUS"])["STATUS"]
        assert "ValueError: gone" in manager.hear(lambda said: "cannot boot" in said["STATUS"])["STATUS"]
        (tmp_path / "app.py").write_text(APP)
        manager.hear(lambda said: said["STATUS"] == "generation 1 serves with 1 worker")
        manager.main.terminate()
        assert manager.hear(lambda said: "STOPPING" in said)["STATUS"] == "the server is stopping"


def test_the_watchdog_is_fed_while_a_worker_serves_by_the_new_master_too(manage: Manage, tmp_path: Path) -> None:
    manager = manage(f'listen = "127.0.0.1:0"\n{CONFIG}', f"@prefork-{uuid.uuid4().hex}")
    is_food = {"WATCHDOG": "1"}.__eq__
    with manager.service(WATCHDOG_USEC="100000") as process:
        ready(process)
        for _ in range(3):
            manager.hear(is_food)
        (worker,) = manager.main.children()
        suspend(worker)
        eventually(lambda: starves(manager), 10, what="the end of the feeding")
        worker.resume()
        manager.hear(is_food)
        process.send_signal(signal.SIGUSR2)
        manager.main = psutil.Process(int(manager.hear(lambda said: "MAINPID" in said)["MAINPID"]))
        assert process.wait(10) == 0
        for _ in range(3):
            manager.hear(is_food)


def starves(manager: Manager) -> bool:
    """Whether no food comes for four times as long as it takes to come."""
    manager.mailbox.settimeout(0.2)
    try:
        return not manager.mailbox.recv(65536)
    except TimeoutError:
        return True
    finally:
        manager.mailbox.setblocking(False)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_ipv4_client_of_a_dual_stack_socket_has_its_ipv4_address(manage: Manage) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        manager = manage('listen = ["systemd"]\n[log]\naccess = "access.log"\n[[route]]\nrespond = {}\n')
        with manager.service([listener]) as process:
            ready(process)
            assert b" 200 OK" in get(("127.0.0.1", listener.getsockname()[1]))
            log = manager.directory / "access.log"
            assert eventually(log.read_text, what="a line in the access log").split()[0] == "127.0.0.1"
