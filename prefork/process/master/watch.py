"""Watching: `start --watch` reloads when the application's files change. Owns the watcher, a process of its own.

The master forks the watcher, because watchfiles starts threads. The watcher holds the ends of two pipes of the master,
and standard error. Its standard input comes to its end when the master ends. Each time that files have changed, the
watcher writes a line to its standard output: a JSON list of their paths. An empty list says that it has begun to watch;
a JSON string says why it cannot.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import structs

from prefork.errors import BootError, MalformedMessage, StartError
from prefork.logger import log
from prefork.net import file_paths
from prefork.process.lines import READ, Lines, decode
from prefork.process.machine import set_process_title
from prefork.process.messages import Reporter
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.settings.schema import Settings
from prefork.settings.wording import to_install

SUFFIXES = (".py", ".html", ".jinja", ".jinja2", ".j2")  # code, and the templates that applications keep in memory
IGNORED = {"__pycache__", "node_modules", "site-packages", "venv"}  # directories, like those that begin with a dot
DEBOUNCE_STEP = 50  # milliseconds without a change, after which earlier ones are reported; editors write several times
LONGEST_DEBOUNCE = 1600  # milliseconds until a change is reported, at most
POLL_TIMEOUT = 2000  # milliseconds for which watchfiles waits at a time
LONGEST_LINE = 16 << 20  # bytes of a line: the names of all files that have changed at once
PAUSE = 1.0  # seconds until a watcher that has died is replaced
GRACEFUL = 0.5  # seconds for the old workers, which streams would hold longer; after a save, none should answer

_saying = threading.Lock()


def require() -> None:
    """Raises StartError where watchfiles is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise StartError(f"--watch needs the package watchfiles: {to_install('watchfiles')}")


def for_development(settings: Settings) -> Settings:
    """The same settings for `--watch`: one worker, unless a number is set; old workers that leave within GRACEFUL
    seconds, without a probation of the new ones; and a file cache that notices each change.
    """
    workers = settings.workers
    count = 1 if workers.count == "auto" else workers.count
    graceful = min(workers.graceful_timeout, GRACEFUL)
    workers = structs.replace(workers, count=count, graceful_timeout=graceful, probation=0.0)
    looked_at = structs.replace(settings.file_cache, valid=0.0)  # a saved file is served at once
    return structs.replace(settings, file_cache=looked_at, workers=workers)


class Watch:
    """Watches `directories` and the file `config`, "" for none, and calls `reload` after each change."""

    def __init__(self, children: Children, directories: Sequence[str], config: str, reload: Callable[[], Any]) -> None:
        self._children = children
        self._directories = [os.path.realpath(file_paths.absolute(directory)) for directory in directories]
        folder, name = os.path.split(file_paths.absolute(config)) if config else ("", "")
        self._config = os.path.join(os.path.realpath(folder), name) if config else ""
        self._reload = reload
        self._changed: set[str] = set()
        self._child: Child | None = None
        self._reading = -1  # the reading end of the watcher's standard output
        children.private.append(self._hang_up)
        self._stopped = False

    async def run(self) -> None:
        """Keep a watcher alive until `stop`, or until one cannot watch, or cannot be forked."""
        log.info("watching %s for changes", ", ".join(map(_shown, self._directories)))
        replaced = False
        while not self._stopped:
            self._reading, writing = os.pipe()
            try:
                self._child = child = self._children.fork(partial(self._become_watcher, writing))
            except BootError as error:
                self._hang_up()
                log.error("cannot watch for changes, so none is seen: %s", error)
                return
            finally:
                os.close(writing)
            child.hang_up()  # it reports through the pipe
            can_watch = await self._listen(child, replaced)
            await child.exited.wait()
            if self._stopped or not can_watch:
                return
            log.error("the watcher died: %s; replacing it", child.exit_description)
            replaced = True
            await self._children.loop.sleep(PAUSE)

    def stop(self) -> None:
        """End the watcher for good. It has nothing to finish, and SIGSTOP may hold it, so it is killed."""
        self._stopped = True
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    def forget_bytecode(self) -> None:
        """Remove the .pyc files of sources that have changed. Python takes a .pyc file for valid when its source has
        the same size and the same second of modification, as after two edits within a second (importlib, "cached
        bytecode invalidation").
        """
        for path in self._changed:
            if path.endswith(".py"):
                with (
                    suppress(OSError, NotImplementedError),
                    file_paths.place(importlib.util.cache_from_source(path)) as pyc,
                ):
                    pyc.unlink()
        self._changed.clear()

    def _hang_up(self) -> None:
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1

    async def _listen(self, child: Child, replaced: bool) -> bool:
        """Read the lines of the watcher until it ends. False where it cannot watch, or where a line makes no sense.

        A watcher that has `replaced` another causes a reload when it begins: files may have changed before that.
        """
        loop, lines = self._children.loop, Lines(LONGEST_LINE)
        readable = loop.readable(self._reading)
        try:
            while True:
                await readable
                piece = os.read(self._reading, READ)
                if not piece:
                    return True
                for line in lines.feed(piece):
                    said: list[str] | str = decode(line, list[str] | str)  # type: ignore[arg-type]
                    if isinstance(said, str):
                        log.error("cannot watch for changes, so none is seen any more: %s", said)
                        return False
                    self._changed.update(said)
                    if said or replaced:
                        log.info("reloading: %s changed", _summary(said) if said else "something may have")
                        self._reload()
        except MalformedMessage as error:
            log.error("the watcher sent a malformed message, so no change is seen any more: %s", error)
            child.signal(signal.SIGKILL)
            return False
        finally:
            loop.forget(self._reading)
            self._hang_up()

    # ---- in the watcher

    def _become_watcher(self, out: int, reporter: Reporter) -> int:
        set_process_title("watcher")
        os.dup2(self._children.lifeline, 0)
        os.dup2(out, 1)
        os.closerange(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20))
        # the master alone obeys what the whole process group or all children are sent; it ends the watcher by SIGKILL
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        threading.Thread(target=_outlive_nobody, daemon=True).start()
        try:
            self._observe()
        except Exception as error:
            _say(f"{type(error).__name__}: {error}")
        return os.EX_OK

    def _observe(self) -> None:
        import watchfiles  # not in the master, which does not use it

        def observe(*paths: str, recursive: bool = True) -> None:
            begun = not recursive  # only the recursive watch reports that it has begun
            for changes in watchfiles.watch(
                *paths,
                watch_filter=lambda _, path: self._counts(path),
                debounce=LONGEST_DEBOUNCE,
                step=DEBOUNCE_STEP,
                rust_timeout=POLL_TIMEOUT,
                yield_on_timeout=True,
                recursive=recursive,
                raise_interrupt=False,
            ):
                if changes or not begun:
                    begun = True
                    _say(sorted({path for _, path in changes}))

        folder = os.path.dirname(self._config)
        if folder and not any(_below(folder, directory) for directory in self._directories):
            # watch the directory, as editors replace the file by a new one; but not its subdirectories
            threading.Thread(target=observe, args=[folder], kwargs={"recursive": False}, daemon=True).start()
        observe(*self._directories)

    def _counts(self, path: str) -> bool:
        """Whether a change of this file matters."""
        if path == self._config:
            return True
        parts = [
            os.path.relpath(path, directory).split(os.sep) for directory in self._directories if _below(path, directory)
        ]
        return path.endswith(SUFFIXES) and any(
            not any(part[0] == "." or part in IGNORED for part in inside) for inside in parts
        )


def _outlive_nobody() -> None:
    """End with the master: only that holds the other end of standard input, and it never writes to it."""
    os.read(0, 1)
    os._exit(os.EX_OK)


def _say(what: Iterable[str] | str) -> None:
    data = msgspec.json.encode(what) + b"\n"
    with _saying:
        while data:
            data = data[os.write(1, data) :]


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _summary(paths: Sequence[str]) -> str:
    shown = ", ".join(map(_shown, paths[:3]))
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown


def _shown(path: str) -> str:
    """`path`, relative to the current directory where it is below that."""
    here = os.path.realpath(file_paths.absolute(os.curdir))
    return os.path.relpath(path, here) if _below(path, here) else path
