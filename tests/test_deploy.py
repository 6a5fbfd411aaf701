"""The unit files of config/deploy, in the eyes of systemd itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import needs

DEPLOY = Path(__file__).parents[1] / "config/deploy"
COMMAND = "/srv/site/.venv/bin/prefork"


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    needs("systemd-analyze")
    for unit in ("prefork.service", "prefork.socket"):
        text = (DEPLOY / unit).read_text()
        assert (COMMAND in text) == (unit == "prefork.service")
        (tmp_path / unit).write_text(text.replace(COMMAND, sys.executable))  # which must exist
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
