"""Makes .venv and installs into it: `python .venv.py ROOT EXTRA`. Owns all of .venv, its stamps and the lock on it.

.venv.sh runs this, with any Python >= 3.11, when the stamp of EXTRA ("" or "test") does not fit. Safe against being
cut short at any point, and against several first starts at once.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path


class Failed(Exception):
    """`.venv` cannot be had: the exit code, and a line for the operator unless a tool has said why."""

    def __init__(self, code: int, line: str = "") -> None:
        super().__init__(line)
        self.code = code


class Venv:
    """The environment of the checkout at `root`. `making` is there during changes: found later, one was cut short."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self.making = self.path / ".making"
        self.lock = os.open(root, os.O_RDONLY)
        project = root / "pyproject.toml"
        self.changed = project.stat().st_mtime_ns
        self.stamp = f"{root}\n".encode() + project.read_bytes()

    def prepare(self, extra: str) -> None:
        """Make, mend or update it, as needed; raises Failed."""
        self.hold()
        if not self.is_sound():
            self.build()
        elif self.has(extra):
            self.write_stamps(extra)  # another start was faster, or pyproject.toml was touched and not changed
            return
        else:
            say("installing into .venv what pyproject.toml asks for")
        self.install(extra)

    def hold(self) -> None:
        """Wait until no other start works on .venv. The kernel lets go of the lock as soon as its holders are gone."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is making .venv: waiting for it")
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    def is_sound(self) -> bool:
        """Whether it is finished, made for this place (its scripts and links are absolute), and runs."""
        here = f"{self.root}\n".encode()
        moved = any(not stamp.read_bytes().startswith(here) for stamp in self.path.glob(".installed*"))
        if moved or self.making.exists() or not os.access(self.python, os.X_OK):
            return False
        return self.run("-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))", stderr=subprocess.DEVNULL) == 0

    def build(self) -> None:
        """Make it from nothing, with pip inside; raises Failed."""
        if self.path.is_symlink():  # what it leads to is another's, and would be emptied
            line = f".venv is a link to {os.readlink(self.path)}, which is not an environment of this checkout"
            raise Failed(1, f"{line}; remove the link")
        version = "{}.{}".format(*sys.version_info)
        if importlib.util.find_spec("ensurepip") is None:  # Debian has it in a package of its own
            line = f"Python {version} ({sys.executable}) cannot make .venv, for want of ensurepip"
            raise Failed(1, f"{line}; on Debian and Ubuntu: apt install python{version}-venv")
        say(f"making .venv with Python {version} and installing into it, once")
        self.path.mkdir(exist_ok=True)
        self.making.touch()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != self.making:
                entry.unlink()
        code = subprocess.call([sys.executable, "-I", "-m", "venv", str(self.path)], pass_fds=[self.lock])
        if code:
            raise Failed(code)

    def install(self, extra: str) -> None:
        """Install this checkout with `extra` by pip, which says itself what is wrong; raises Failed."""
        self.making.touch()
        for stamp in self.path.glob(".installed*"):
            stamp.unlink()
        options = ["--quiet", "--disable-pip-version-check"]
        if os.path.expanduser("~") == "~":  # no HOME, and a user without an entry in /etc/passwd
            options.append("--no-cache-dir")
        extras = f"standard,{extra}" if extra else "standard"  # who has a checkout is to have all that it can do
        code = self.run("-m", "pip", "install", *options, "--editable", f".[{extras}]")
        if code == 0:
            self.write_stamps(extra)
        self.making.unlink()
        if code:
            raise Failed(code)

    def stamps(self, extra: str) -> list[Path]:
        """One for the plain installation, which every other includes, and one for `extra`."""
        return [self.path / name for name in ([".installed", f".installed-{extra}"] if extra else [".installed"])]

    def has(self, extra: str) -> bool:
        """Whether what was last installed is what pyproject.toml says now, whatever its time."""
        return all(stamp.exists() and stamp.read_bytes() == self.stamp for stamp in self.stamps(extra))

    def write_stamps(self, extra: str) -> None:
        for stamp in self.stamps(extra):
            stamp.write_bytes(self.stamp)
            os.utime(stamp, ns=(self.changed, self.changed))

    def run(self, *arguments: str, stderr: int | None = None) -> int:
        """Run its Python, deaf to PYTHONPATH (pip would take what is there for installed). Returns the exit code.

        The lock is handed down: who kills this process alone leaves a pip at work behind.
        """
        command = [str(self.python), "-I", *arguments]
        return subprocess.call(command, cwd=self.root, pass_fds=[self.lock], stdin=subprocess.DEVNULL, stderr=stderr)


def say(line: str) -> None:
    print(f"prefork: {line}", file=sys.stderr, flush=True)


def main(root: str, extra: str) -> int:
    try:
        Venv(Path(root)).prepare(extra)
    except Failed as failed:
        if str(failed):
            say(str(failed))
        return failed.code
    except OSError as error:
        say(f"cannot make {root}/.venv: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next start makes .venv anew")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
