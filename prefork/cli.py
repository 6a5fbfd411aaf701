"""The commands. Owns their output and exit status: 0 only after success; otherwise a line on stderr says why."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from prefork import __version__
from prefork.arguments import MISTAKEN, parse
from prefork.errors import ConfigError, StartError
from prefork.habits import passed_over
from prefork.observe.terminal import printable_json, say
from prefork.process.master import control, reach, watch
from prefork.process.master.configuration import read
from prefork.process.master.control import Message
from prefork.process.master.daemon import Daemon
from prefork.process.master.master import Master
from prefork.process.master.reach import CONFIG
from prefork.process.master.runtime_directory import Place, find_place
from prefork.process.master.status_table import table
from prefork.process.master.upgrade import Predecessor
from prefork.settings.load import json_schema
from prefork.settings.schema import Settings
from prefork.settings.wording import MORE_DESCRIPTORS, counted, quoted

FAILED = 1
INTERRUPTED = 130  # by Ctrl-C, as in shells: 128 and the signal's number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status."""
    try:
        _open_closed_streams()
        options = parse(sys.argv[1:] if arguments is None else arguments)
        status = COMMANDS[options.command](options)
        sys.stdout.flush()  # here, where it may fail
        return status
    except ConfigError as error:
        _complain(str(error))
        return MISTAKEN
    except StartError as error:
        for problem in error.problems:
            _complain(problem)
        _complain(f"prefork: {error}")
        return FAILED
    except OSError as error:  # `prefork status | head`, `prefork schema >/dev/full`, no descriptors left, no /dev
        if not isinstance(error, BrokenPipeError):
            _complain(f"prefork: {_refused(error)}")
        with suppress(OSError, ValueError):  # later output must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _start(options: argparse.Namespace) -> int:
    predecessor = Predecessor.find()
    if predecessor is None:
        return _serve(options, None)
    try:
        return _serve(options, predecessor)
    except Exception as error:
        if not predecessor.refuse(error):
            raise
        return FAILED  # the predecessor reports the error


def _serve(options: argparse.Namespace, predecessor: Predecessor | None) -> int:
    # an APP or a directory is a whole configuration; the default file does not count then
    path = options.config or (None if options.app or options.files else CONFIG)

    watched = _watched(options)
    place: Place | None = None

    def load() -> Settings:
        settings = read(
            path,
            app=options.app,
            files=options.files,
            listing=options.listing,
            listen=options.listen,
            app_dir=options.app_dir,
            overrides=options.overrides,
        )
        if place is not None:
            has_pid_file = any(one.key == "master.pid_file" for one in options.overrides)
            settings = place.given_to(settings, has_pid_file)
        return watch.for_development(settings) if watched else settings

    settings, background = load(), None
    if predecessor is None:
        given = {one.key for one in options.overrides} | ({"listen"} if options.listen else set())
        for line in passed_over(os.environ, given if path is None else None):
            _complain(f"prefork: {line}")
    if path is None:
        place = predecessor.place() if predecessor else _place(settings)
        settings = load()
    if predecessor is None and (options.daemon or settings.master.daemon):
        background = Daemon()
        if background.is_mute and "-" in (settings.log.error, settings.log.access):
            lost = 'prefork: a daemon has no stderr, so the logs to "-" are lost'
            _complain(f"{lost}: name files in [log] (--error-logfile, --access-logfile)")
    status = Master(settings, load, watched, predecessor, background).run()
    sys.stdout.flush()
    os._exit(status)  # nothing is left to do; the interpreter's own shutdown takes longer than a whole stop


def _place(settings: Settings) -> Place:
    place = find_place([listener.address for listener in settings.listen])
    if place.problem:
        _complain(f"prefork: no pid file and no control socket, so the server takes only signals: {place.problem}")
    return place


def _watched(options: argparse.Namespace) -> list[str]:
    """The directories to watch, none by default. Raises ConfigError, and StartError where watchfiles is missing."""
    for directory in options.watch_dir or ():
        if not os.path.isdir(directory):
            raise ConfigError(f"--watch-dir: expected an existing directory, got {quoted(directory)}")
    directories: list[str] = options.watch_dir or (
        [os.curdir, *filter(None, [options.app_dir])] if options.watch else []
    )
    if directories:
        watch.require()
    return directories


def _check(options: argparse.Namespace) -> int:
    settings = read(options.config or CONFIG)
    routes, addresses = counted(len(settings.routes), "route"), counted(len(settings.listen), "address")
    say(f"{settings.source}: good; {routes}, {addresses}")
    return 0


def _schema(options: argparse.Namespace) -> int:
    say(printable_json(json_schema()))
    return 0


def _change(options: argparse.Namespace, done: str, request: Message) -> int:
    """Ask the master for a change, which it makes wholly or not at all."""
    reply = _ask(options, request)
    if not reply["ok"]:
        command = request["command"]
        _complain(f"{reply.get('report', '')}{command} failed, so all stays as it was: {reply.get('message', '')}")
        return FAILED
    say(f"{done}: {reply.get('message', '')}")
    return 0


def _reload(options: argparse.Namespace) -> int:
    return _change(options, "reloaded", {"command": "reload"})


def _upgrade(options: argparse.Namespace) -> int:
    return _change(options, "upgraded", {"command": "upgrade"})


def _stop(options: argparse.Namespace) -> int:
    path = _reached(options)
    reply, connection = control.ask(path, {"command": "stop", "now": options.now})
    with connection, suppress(OSError):
        connection.recv(1)  # ends when the master does
    pid = reply.get("pid", 0)
    with suppress(psutil.NoSuchProcess):
        master = psutil.Process(pid)
        while master.is_running() and master.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    say(f"stopped: master {pid} at {path} is gone")
    return 0


def _reopen(options: argparse.Namespace) -> int:
    reply = _ask(options, {"command": "reopen"})
    if not reply["ok"]:
        _complain(f"prefork: {reply.get('message', '')}")
        return FAILED
    say(reply.get("message", ""))
    return 0


def _scale(options: argparse.Namespace) -> int:
    return _change(options, "scaled", {"command": "scale", "count": options.count})


def _status(options: argparse.Namespace) -> int:
    reply = _ask(options, {"command": "status"})
    width = max(80, shutil.get_terminal_size((80, 24)).columns)
    try:
        text = printable_json(reply) if options.json else table(reply, width)
        serves = bool(reply["ready"])
    except (LookupError, TypeError, ValueError) as error:
        raise StartError(f"cannot read the master's answer; is it another version of prefork? ({error!r})") from None
    say(text)
    return 0 if serves else FAILED


def _version(options: argparse.Namespace) -> int:
    say(f"prefork {__version__}")
    return 0


def _ask(options: argparse.Namespace, request: Message) -> Message:
    reply, connection = control.ask(_reached(options), request)
    connection.close()
    return reply


def _reached(options: argparse.Namespace) -> str:
    """The path of the control socket to ask."""
    path, note = reach.find(options.config, options.listen)
    if note:
        _complain(f"prefork: {note}")
    return path


def _open_closed_streams() -> None:
    """Open closed standard streams to os.devnull; otherwise the first files that we open would take their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _refused(error: OSError) -> str:
    """The error of the system, with the file and the remedy if they are known."""
    where = f"{error.filename}: " if error.filename else ""
    way_out = f"; {MORE_DESCRIPTORS}" if error.errno == errno.EMFILE else ""
    return f"{where}{error.strerror or error}{way_out}"


def _complain(text: str) -> None:
    say(text, sys.stderr)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "start": _start,
    "check": _check,
    "schema": _schema,
    "reload": _reload,
    "stop": _stop,
    "upgrade": _upgrade,
    "reopen": _reopen,
    "scale": _scale,
    "status": _status,
    "version": _version,
}
