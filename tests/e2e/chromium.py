"""Headless Chromium as tests run it: one visit, with a profile of its own. Owns its processes and its profile's place.

A profile is a directory, whose cache a second visit with the same one finds again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import eventually, needs

ALONE = (  # nothing but the page: no sandbox, which root has none of, no GPU, and no talk to its maker
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 30.0  # seconds for one visit, which takes 1


class Chromium:
    """Visits pages with the profile in `directory`, which is made where it is missing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def dom(self, url: str, *args: str, milliseconds: int = 10_000) -> str:
        """The document as HTML, once its scripts have run: those milliseconds of the page's own time, which passes at
        once where nothing is under way. With 0 it is the real time, and the document as it is when it has loaded.
        """
        budget = [f"--virtual-time-budget={milliseconds}"] if milliseconds else []
        return self._visit(url, "--dump-dom", *budget, *args)

    def screenshot(self, url: str, png: Path, *args: str, size: tuple[int, int] = (1280, 800)) -> None:
        """What the page looks like, as a PNG file."""
        self._visit(url, f"--screenshot={png}", f"--window-size={size[0]},{size[1]}", *args)
        assert png.read_bytes().startswith(b"\x89PNG")

    def _visit(self, url: str, *args: str) -> str:
        """Run it to its end, and see that nothing of it is left; what it wrote to stdout."""
        home = str(self.directory)
        command = ["chromium", *ALONE, f"--user-data-dir={home}", *args, url]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": home, "PULSE_RUNTIME_PATH": home},  # what it writes besides the profile is there
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                pytest.fail(f"chromium still loads {url} after {PATIENCE:g} s")
            finally:
                self._end(process.pid)
        assert process.returncode == 0, err
        return out

    def _end(self, session: int) -> None:
        """Its helpers leave by themselves a moment after it; who does not is killed."""
        with suppress(pytest.fail.Exception):
            eventually(lambda: not self._family(session), within=2)
        for process in self._family(session):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        eventually(lambda: not self._family(session), what="the end of chromium's processes")

    def _family(self, session: int) -> list[psutil.Process]:
        """What lives of that session, or has this profile on its command line: some make a session of their own."""
        found = []
        mark = f"--user-data-dir={self.directory}"
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and (
                    os.getsid(process.pid) == session or mark in process.cmdline()
                ):
                    found.append(process)
        return found


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    """A browser with an empty profile, which is gone when the test ends. Skips where there is no chromium."""
    needs("chromium")
    directory = Path(tempfile.mkdtemp(prefix="prefork-chromium-"))
    try:
        yield Chromium(directory)
    finally:
        shutil.rmtree(directory)
