"""Arguments: owns the options of the command line, including those that people know from other servers.

An option with the same meaning here is accepted as gunicorn, uvicorn and others write it. Any other is refused, and the
error names the equivalent in prefork (habits.py).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from prefork.habits import HABITS, PREFIXES
from prefork.settings.address import Address
from prefork.settings.kinds import FLAG, MOST_WORKERS, Entries
from prefork.settings.overrides import Override
from prefork.settings.schema import Settings
from prefork.settings.tables import Key, keys
from prefork.settings.wording import nearest, quoted

LIKENESS = 0.75  # of a mistyped option to a known one: --name must not be taken for --script-name
MISTAKEN = 2  # the exit status of a config error or a usage error, as of argparse
NEVER_EMPTY = {"config": "--config", "app": "APP", "app_dir": "--app-dir", "files": "--files", "host": "--host"}
HELP = ("-h", "--help")
VERSION = ("-V", "--version", "-v")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", "8000"

COMMANDS = {
    "start": "run the server, by default in the foreground",
    "check": "validate the configuration",
    "schema": "print the JSON Schema of the configuration",
    "reload": "replace the workers by new ones, with the current configuration and code",
    "stop": "finish the requests under way, then stop",
    "upgrade": "replace the running master by a new one, with the current code",
    "reopen": "reopen the log files, after they have been moved away",
    "scale": "change the number of workers, until the next reload",
    "status": "show the master and its workers; exits 1 if no worker serves",
    "version": "print the version",
    "help": "explain a command",
}
ASKING = ("reload", "stop", "upgrade", "reopen", "scale", "status")  # commands to a running server

SYNONYMS = {"restart": "reload", "quit": "stop", "run": "start", "serve": "start", "test": "check", "validate": "check"}

# Options of `start`, each of which sets a key of the file. Errors call an option by its first name.
KEYS = {
    "workers.count": ("--workers", "-w"),
    "workers.threads": ("--threads",),
    "workers.timeout": ("--timeout", "-t"),
    "workers.graceful_timeout": ("--graceful-timeout", "--timeout-graceful-shutdown"),
    "workers.connections": ("--worker-connections",),
    "workers.max_requests": ("--max-requests", "--limit-max-requests"),
    "workers.preload": ("--preload",),
    "workers.chdir": ("--chdir",),
    "workers.env": ("--env", "-e"),
    "http.keepalive_timeout": ("--keep-alive", "--timeout-keep-alive"),
    "http.trusted_proxies": ("--forwarded-allow-ips",),
    "http.max_body": ("--max-body",),
    "log.level": ("--log-level",),
    "log.error": ("--error-logfile", "--log-file"),
    "log.access": ("--access-logfile",),
    "master.pid_file": ("--pid",),
    "master.user": ("--user", "-u"),
    "master.group": ("--group", "-g"),
    "master.umask": ("--umask", "-m"),
}


class Parser(argparse.ArgumentParser):
    """A parser with one-line errors, which name the option and point to --help."""

    def error(self, message: str) -> NoReturn:
        option = r"argument (?:-\w/)?([^/\s]+)\S*: "  # by its first long name
        for pattern, ours in (
            (rf"{option}expected (?:one|at least one) argument", r"\1: a value is missing"),
            (rf"{option}ignored explicit argument (.*)", r"\1: expected no value, got \2"),
            (rf"{option}(.*)", r"\1: \2"),
            (r"the following arguments are required: (.*)", r"\1 is missing"),
        ):
            if re.fullmatch(pattern, message):
                message = re.sub(pattern, ours, message)
                break
        self.print_usage(sys.stderr)
        self.exit(MISTAKEN, f"{self.prog}: {message}; `{self.prog} --help` tells more\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line: `command`, one of COMMANDS except help, and its options; those of `start` are as
    settings.load takes them. Raises SystemExit after a help text, and for a usage error.
    """
    top = Parser("prefork", usage="prefork COMMAND [OPTION ...]", description="The nginx process model for Python.")
    parsers = _parsers(top)
    first, *rest = _with_command(arguments, top)
    if first == "help":
        topic = rest[0] if rest else ""
        if topic and topic not in parsers:
            top.error(_no_command(topic))
        (parsers[topic] if topic else top).print_help()
        top.exit()
    if first in HELP:
        top.print_help()
        top.exit()
    parser = parsers[first]
    options, others = parser.parse_known_args(rest)
    if others:
        parser.error(_unknown(others, parser))
    options.command = first
    _refuse_empty(options, parser)
    if first == "start" or first in ASKING:
        options.listen = _addresses(options, parser)
    if first == "start":
        options.overrides = _overrides(options, parser)
    return options


def _with_command(arguments: Sequence[str], top: Parser) -> Sequence[str]:
    """The arguments, with `start` in front if they begin with an application or an option."""
    first = arguments[0] if arguments else ""
    if not first:
        top.error(f"a command is missing: {', '.join(COMMANDS)}; or an application such as myapp:app")
    if first in VERSION:
        return ["version"]
    if first in COMMANDS or first in HELP:
        return arguments
    if not first.startswith("-") and ":" not in first:
        top.error(_no_command(first))
    return ["start", *arguments]


def _no_command(name: str) -> str:
    if near := SYNONYMS.get(name) or nearest(name, COMMANDS):
        meant = f"did you mean {near}?"
    elif os.path.isdir(name):
        meant = f"a directory is served by --files {name}"
    else:
        module = os.path.normpath(name).removesuffix(".py").replace(os.sep, ".")
        is_module = all(part.isidentifier() for part in module.split("."))
        meant = f"an application has a colon, as in {module if is_module else 'myapp'}:app"
    return f"{quoted(name)}: no command ({meant})"


def _unknown(others: Sequence[str], parser: Parser) -> str:
    """The error for the first of `others` that is an option; if none is, for the first, an unexpected argument."""
    option = next((each for each in others if each.startswith("-") and each != "-"), "").partition("=")[0]
    if not option:
        return f"{quoted(others[0])}: unexpected argument"
    known = {name for action in parser._actions for name in action.option_strings}
    habits = HABITS if parser.prog == "prefork start" else {}
    short = option[:2] if not option.startswith("--") else ""  # -kgevent
    for name in (option, short, *(prefix for prefix in PREFIXES if option.startswith(prefix))):
        if name in habits:
            return f"{option}: {habits[name]}"
    near = nearest(option, [*known, *habits], LIKENESS)
    meant = f"{near}, but {habits[near]}" if near in habits else near
    return f"{option}: unknown option{f' (did you mean {meant}?)' if near else ''}"


def _parsers(top: Parser) -> dict[str, Parser]:
    """The parser of each command, by its name."""
    commands = top.add_subparsers(metavar="COMMAND", title="commands", prog="prefork", parser_class=Parser)
    parsers: dict[str, Parser] = {}
    for name, about in COMMANDS.items():
        described = f"{about[0].upper()}{about[1:]}."
        parsers[name] = commands.add_parser(name, help=about, description=described, allow_abbrev=False)
    for name in ("start", "check", *ASKING):
        help = "the configuration file, config/server.toml by default"
        parsers[name].add_argument("-c", "--config", metavar="FILE", help=help)
    for name in ASKING:
        _add_listen(parsers[name], "the address of the server, if several run here without a file")
    _add_start(parsers["start"])
    parsers["stop"].add_argument("--now", action="store_true", help="do not wait for the requests under way")
    parsers["scale"].add_argument(
        "count", metavar="N", type=_count, help=f"the number of workers, from 1 to {MOST_WORKERS}"
    )
    parsers["status"].add_argument("--json", action="store_true", help="print JSON")
    parsers["help"].add_argument("topic", metavar="COMMAND", nargs="?", help="the command")
    for parser in parsers.values():
        places = "".join(f" [{action.metavar}]" for action in parser._actions if not action.option_strings)
        parser.usage = f"{parser.prog} [OPTION ...]{places}"
    return parsers


def _count(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected an integer from 1 to {MOST_WORKERS}, got {quoted(text)}")
    return int(text)


def _add_start(start: Parser) -> None:
    start.add_argument("app", metavar="APP", nargs="?", help='an application such as "myapp:app"')
    start.add_argument("--app-dir", metavar="DIR", help="the directory of its modules, this one by default")
    start.add_argument(
        "--files", metavar="DIR", nargs="?", const=os.curdir, help="serve a directory, this one by default"
    )
    start.add_argument(
        "--listing", action="store_true", help="answer a directory without index.html by a list of its files"
    )
    _add_listen(start, "the address to listen on; repeatable")
    start.add_argument(
        "-D", "--daemon", action="store_true", help="run in the background; return when the workers are ready"
    )
    start.add_argument(
        "--watch", action="store_true", help="reload when Python files or templates below this directory change"
    )
    start.add_argument("--watch-dir", metavar="DIR", action="append", help="watch DIR instead; repeatable")
    group = start.add_argument_group("options that override keys of the file")
    for place, names in KEYS.items():
        key = _key(place)
        about = f"{key.about} ({place})".replace("%", "%%")
        if key.value is FLAG:
            group.add_argument(*names, dest=place, action="store_true", help=about)
        elif isinstance(key.value, Entries):
            group.add_argument(*names, dest=place, action="append", metavar="NAME=VALUE", help=about)
        else:
            group.add_argument(*names, dest=place, metavar="VALUE", help=about)


def _add_listen(parser: Parser, help: str) -> None:
    names = ("-b", "--listen", "--bind")
    parser.add_argument(*names, metavar="ADDRESS", dest="listen", action="append", default=[], help=help)
    parser.add_argument("--host", help=f"the host of --listen; {DEFAULT_HOST} if only --port is given")
    parser.add_argument("--port", help=f"the port of --listen; {DEFAULT_PORT} if only --host is given")
    parser.add_argument("--uds", metavar="PATH", help="the same as --listen unix:PATH")


def _addresses(options: argparse.Namespace, parser: Parser) -> list[str]:
    """All addresses, as texts for `listen`. Those of `start` are checked by settings.load, the others here."""
    listen: list[str] = options.listen
    if options.uds is not None:
        listen.append(f"unix:{options.uds}")
    if options.host is not None or options.port is not None:
        host = DEFAULT_HOST if options.host is None else options.host
        port = DEFAULT_PORT if options.port is None else options.port
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            parser.error(f"--port: expected a port from 0 to 65535, got {quoted(port)}")
        listen.append(f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}")
    if options.command != "start":
        try:
            return [str(Address.parse(text)) for text in listen]
        except ValueError as error:
            parser.error(f"--listen: {error}")
    return listen


def _refuse_empty(options: argparse.Namespace, parser: Parser) -> None:
    """Refuse an empty text, as of a variable that is not set. A missing APP, --app-dir or --files becomes ""."""
    for name, called in NEVER_EMPTY.items():
        if getattr(options, name, None) == "":
            parser.error(f'{called}: expected a value, got ""; is a variable empty?')
    if options.command == "start":
        for name in ("app", "app_dir", "files"):
            setattr(options, name, getattr(options, name) or "")


def _overrides(options: argparse.Namespace, parser: Parser) -> list[Override]:
    overrides = []
    for place, (option, *_) in KEYS.items():
        value: Any = getattr(options, place)
        if value is None or value is False:
            continue
        key = _key(place)
        if isinstance(key.value, Entries):
            for entry in value:
                if "=" not in entry:
                    parser.error(f"{option}: expected NAME=VALUE, got {quoted(entry)}")
            value = dict(entry.split("=", 1) for entry in value)
        elif isinstance(key.default, tuple):
            value = [part.strip() for part in value.split(",") if part.strip()]
        overrides.append(Override(option, place, value))
    return overrides


def _key(place: str) -> Key:
    name, _, key = place.partition(".")
    table = keys(Settings)[name].value
    assert isinstance(table, type)
    return keys(table)[key]
