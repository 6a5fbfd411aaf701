"""bin/prefork and bin/test, run from a copy of the checkout whose package and build backend are stand-ins.

So they really make a .venv and run pip in it, and yet need no package index: the stand-ins depend on nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import eventually

BIN = Path(__file__).parents[1] / "bin"
HERE = {name: value for name, value in os.environ.items() if name != "PREFORK_PYTHON"}  # which would come first

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "prefork"
version = "0"

[project.optional-dependencies]
standard = []
test = []
"""

# Fails while there is a file "fail", hangs while there is a file "hang", notes each build in "builds".
BACKEND = """
import os, time, zipfile

def build_editable(directory, settings=None, metadata=None):
    if os.path.exists("fail"):
        raise SystemExit("the backend has failed")
    with open("builds", "a") as builds:
        builds.write("built\\n")
    while os.path.exists("hang"):
        time.sleep(0.01)
    with zipfile.ZipFile(os.path.join(directory, "prefork-0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("prefork.pth", os.getcwd())
        wheel.writestr("prefork-0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: prefork\\nVersion: 0\\n"
                       "Provides-Extra: standard\\nProvides-Extra: test\\n")
        wheel.writestr("prefork-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("prefork-0.dist-info/RECORD", "")
    return "prefork-0-py3-none-any.whl"
"""

MAIN = "import json, os, sys; print(json.dumps([__name__, sys.prefix, os.getcwd(), sys.argv[1:]]))"


class Checkout:
    """A checkout at `root`, its scripts, and how often pip has installed it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "pyproject.toml"

    def start(self, script: str, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "bin" / script, *arguments],
            cwd=cwd or self.root,
            env=HERE | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **env: str) -> Done:
        return finish(self.start(script, *arguments, cwd=cwd, **env))

    @property
    def builds(self) -> int:
        builds = self.root / "builds"
        return len(builds.read_text().splitlines()) if builds.exists() else 0

    def seen(self, *arguments: str, cwd: Path) -> list[object]:
        """What the stand-in for the package prints when it was started as it should be."""
        return ["__main__", str(self.root / ".venv"), str(cwd), list(arguments)]


class Done:
    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def seen(self) -> object:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


def finish(process: subprocess.Popen[str]) -> Done:
    stdout, stderr = process.communicate(timeout=50)
    return Done(process.returncode, stdout, stderr)


def lay_out(root: Path) -> Checkout:
    shutil.copytree(BIN, root / "bin")
    (root / "prefork").mkdir()
    for name, text in {
        "pyproject.toml": PROJECT,
        "backend.py": BACKEND,
        "prefork/__init__.py": "",
        "prefork/__main__.py": MAIN,
        "pytest.py": MAIN,
    }.items():
        (root / name).write_text(text)
    return Checkout(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose first start is over."""
    checkout = lay_out(tmp_path_factory.mktemp("made") / "check out")
    first = checkout.run("prefork", "first")
    assert first.seen == checkout.seen("first", cwd=checkout.root)
    assert first.stderr.startswith("prefork: making .venv with Python 3.")
    assert len(first.stderr.splitlines()) == 1
    return checkout


def postdate(path: Path) -> None:
    changed = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(changed, changed))


def path_with_python(directory: Path, before: str) -> str:
    """A PATH with `readlink` and a python3 alone, which runs the statement `before` ahead of a `-c` program."""
    real = sys.executable
    directory.mkdir()
    (directory / "readlink").symlink_to(shutil.which("readlink") or "")
    python = directory / "python3"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {real} -c "{before}; $2"\nexec {real} "$@"\n')
    python.chmod(0o755)
    return str(directory)


def test_arguments_are_handed_over_as_they_are(made: Checkout) -> None:
    arguments = ["start", "two words", "", "*", "--listen=x"]
    done = made.run("prefork", *arguments)
    assert done.seen == made.seen(*arguments, cwd=made.root)
    assert done.stderr == ""


def test_prefork_keeps_the_working_directory_and_works_through_symlinks(made: Checkout, tmp_path: Path) -> None:
    (tmp_path / "direct").symlink_to(made.root / "bin" / "prefork")
    (tmp_path / "link").symlink_to("direct")
    assert made.run(str(tmp_path / "link"), cwd=tmp_path).seen == made.seen(cwd=tmp_path)


def test_modules_of_the_working_directory_are_left_alone(made: Checkout, tmp_path: Path) -> None:
    for name in ("json", "locale", "runpy", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the working directory was run')")
    (tmp_path / "prefork").mkdir()
    (tmp_path / "prefork/__init__.py").write_text("raise SystemExit('a package of the working directory was run')")
    assert made.run("prefork", cwd=tmp_path).seen == made.seen(cwd=tmp_path)


def test_a_start_with_an_empty_environment_works(made: Checkout, tmp_path: Path) -> None:
    script = made.root / "bin" / "prefork"
    output = subprocess.run([script], env={}, cwd=tmp_path, capture_output=True, check=True).stdout
    assert json.loads(output) == made.seen(cwd=tmp_path)


def test_the_second_start_runs_neither_pip_nor_a_search_and_adds_no_time(made: Checkout, tmp_path: Path) -> None:
    def seconds(command: list[Path | str]) -> float:
        begun = time.perf_counter()
        subprocess.run(command, cwd=tmp_path, env={"PATH": path}, capture_output=True, check=True)
        return time.perf_counter() - begun

    path = path_with_python(tmp_path / "path", "raise SystemExit(1)")
    builds = made.builds
    direct, ours = [made.root / ".venv/bin/python", "-m", "prefork"], [made.root / "bin/prefork"]
    pairs = [(seconds(direct), seconds(ours)) for _ in range(6)]  # in turn, as the machine has better and worse moments
    assert min(ours - direct for direct, ours in pairs) < 0.1
    assert made.builds == builds


def test_the_test_script_adds_its_extra_and_runs_pytest_from_the_root(made: Checkout, tmp_path: Path) -> None:
    builds = made.builds
    for _ in range(2):
        assert made.run("test", "tests/x.py", "-k", "y", cwd=tmp_path).seen == made.seen(
            "tests/x.py", "-k", "y", cwd=made.root
        )
    assert made.run("test").seen == made.seen("-n", "4", "--dist", "loadfile", cwd=made.root)
    assert made.run("prefork").stderr == ""
    assert made.builds == builds + 1


def test_a_changed_pyproject_is_installed_again_and_a_touched_one_is_not(made: Checkout) -> None:
    builds = made.builds
    postdate(made.project)
    assert made.run("prefork").stderr == ""
    assert made.builds == builds
    made.project.write_text(PROJECT + "# changed\n")
    assert made.run("prefork").stderr == "prefork: installing into .venv what pyproject.toml asks for\n"
    assert made.run("prefork").stderr == ""
    assert made.builds == builds + 1


def test_a_failed_installation_shows_the_error_of_pip_and_the_next_start_tries_again(made: Checkout) -> None:
    made.project.write_text(PROJECT + "# to fail\n")
    (made.root / "fail").touch()
    failed = made.run("prefork")
    assert failed.code == 1
    assert failed.stdout == ""
    assert "the backend has failed" in failed.stderr
    (made.root / "fail").unlink()
    assert made.run("prefork").seen == made.seen(cwd=made.root)


def test_an_interrupted_first_start_is_repaired_by_the_next(made: Checkout) -> None:
    made.project.write_text(PROJECT + "# to hang\n")
    (made.root / "hang").touch()
    builds = made.builds
    process = made.start("prefork")
    eventually(lambda: made.builds > builds, within=20, what="a build under way")
    os.killpg(process.pid, signal.SIGINT)
    interrupted = finish(process)
    assert interrupted.code != 0
    assert "interrupted" in interrupted.stderr
    (made.root / "hang").unlink()
    repaired = made.run("prefork")
    assert repaired.seen == made.seen(cwd=made.root)
    assert "making .venv" in repaired.stderr


def test_two_starts_at_once_in_a_moved_checkout_make_its_venv_anew_and_once(made: Checkout, tmp_path: Path) -> None:
    moved = Checkout(tmp_path / "moved")
    shutil.copytree(made.root, moved.root, symlinks=True)
    builds = moved.builds
    starts = [moved.start("prefork"), moved.start("prefork")]
    done = [finish(process) for process in starts]
    assert [one.seen for one in done] == [moved.seen(cwd=moved.root)] * 2
    assert sorted(len(one.stderr.splitlines()) for one in done) == [1, 1]
    assert sum("making .venv with" in one.stderr for one in done) == 1
    assert moved.builds == builds + 1


def test_a_link_to_the_venv_of_another_checkout_is_refused_and_that_is_left_alone(
    made: Checkout, tmp_path: Path
) -> None:
    other = lay_out(tmp_path / "other")
    (other.root / ".venv").symlink_to(made.root / ".venv")
    refused = other.run("prefork")
    assert refused.code == 1
    assert ".venv is a link to" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert made.run("prefork", cwd=tmp_path).seen == made.seen(cwd=tmp_path)


def test_a_python_that_is_too_old_gets_one_clear_line(tmp_path: Path) -> None:
    checkout = lay_out(tmp_path / "checkout")
    path = path_with_python(tmp_path / "path", "import sys; sys.version_info = (3, 9, 18)")
    done = checkout.run("prefork", PATH=path)
    assert done.code == 1
    assert done.stderr.startswith("prefork: needs Python 3.11 or newer, found 3.9.18 (/")
    assert len(done.stderr.splitlines()) == 1
    assert not (checkout.root / ".venv").exists()


def test_no_python_at_all_gets_the_same_line(tmp_path: Path) -> None:
    checkout = lay_out(tmp_path / "checkout")
    done = checkout.run("test", PATH=path_with_python(tmp_path / "path", "raise SystemExit(1)"))
    assert done.code == 1
    assert done.stderr.startswith("prefork: needs Python 3.11 or newer, found none; ")


def test_prefork_python_comes_first(tmp_path: Path) -> None:
    checkout = lay_out(tmp_path / "checkout")
    path = path_with_python(tmp_path / "path", "raise SystemExit(1)")
    named = path_with_python(tmp_path / "named", "import sys; sys.version_info = (3, 8, 0)")
    done = checkout.run("prefork", PATH=path, PREFORK_PYTHON=f"{named}/python3")
    assert "found 3.8.0 (/" in done.stderr


def test_a_python_without_ensurepip_gets_one_line_that_names_the_package(tmp_path: Path) -> None:
    checkout = lay_out(tmp_path / "checkout")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None")
    done = checkout.run("prefork", PYTHONPATH=str(tmp_path))
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "apt install python3." in done.stderr
    assert done.stderr.endswith("-venv\n")
