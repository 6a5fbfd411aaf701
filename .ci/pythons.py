"""Finds the CPythons of this machine that prefork is for: `python .ci/pythons.py EXCEPT` prints the version and the
path of one of each minor version from 3.11 on, in order, less the version EXCEPT, such as "3.11".

Looked at are PREFORK_PYTHON, pythonX.Y on PATH, and what pyenv has installed; what does not run, as pyenv's shims of
versions that are not selected, is none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROBE = """
import os, platform, sys, sysconfig
ours = platform.python_implementation() == "CPython" and sys.version_info[:2] >= (3, 11)
if ours and sys.version_info.releaselevel == "final" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print(platform.python_version(), os.path.realpath(sys.executable))
"""


def candidates() -> Iterator[str]:
    if python := os.environ.get("PREFORK_PYTHON"):
        yield python
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        yield from (str(path) for path in Path(directory).glob("python3*") if re.fullmatch(r"python3\.\d+", path.name))
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, (root / "versions").glob("*/bin/python"))


def probe(python: str) -> tuple[str, str] | None:
    """Its version and where it really is; None where it is of no use."""
    try:
        done = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, path = done.stdout.strip().partition(" ")
    return (version, path) if path else None


def main(other_than: str) -> None:
    chosen: dict[tuple[int, ...], tuple[str, str]] = {}
    for found in filter(None, map(probe, candidates())):
        major, minor, *_ = map(int, found[0].split("."))
        chosen.setdefault((major, minor), found)
    for (major, minor), (version, path) in sorted(chosen.items()):
        if f"{major}.{minor}" != other_than:
            print(version, path)


main(sys.argv[1])
