"""Habits: owns the options and variables of gunicorn, uvicorn and others that prefork does not read, and their
equivalents here.

An option is refused, and the error names the equivalent. Environment variables, which a platform or an image may set
for other servers, are named in a line: without it, an operator would notice only that no traffic comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_TLS = "there is no TLS here yet: let a proxy in front do it"
_NOT_NEEDED = "not needed: prefork detects"
_TITLES = "not needed: if setproctitle is installed, ps shows which process is prefork's master, and which is a worker"
_PRINTED = "not needed: the output of applications goes unchanged to the server's own standard output and error"
_FORMAT = "write `format` under [log] into a file, with variables such as $status"
_LOGGING = "the application sets up its own logging; the server's is [log] in a file"
_PREFIX = 'write a route into a file: [[route]] with path = "/prefix"; the application is told of that path'
_IN_LISTEN = "write it into a file: listen = [{{ address = ..., {} }}]"
HABITS = {  # options of other servers, and the equivalent of each here
    "--reload": "here it is --watch",
    "--reload-dir": "here it is --watch-dir",
    "--reload-include": "here --watch watches Python files and templates",
    "--reload-exclude": "here --watch watches Python files and templates",
    "--worker-class": f"{_NOT_NEEDED} whether the application is WSGI or ASGI, and has --threads for WSGI",
    "-k": f"{_NOT_NEEDED} whether the application is WSGI or ASGI, and has --threads for WSGI",
    "--interface": f"{_NOT_NEEDED} whether the application is WSGI or ASGI",
    "--factory": 'write the call into APP: "module:create_app()"',
    "--call": 'write the call into APP: "module:create_app()"',
    "--pythonpath": "here it is --app-dir",
    "--certfile": _TLS,
    "--keyfile": _TLS,
    "--ssl-": _TLS,
    "--ws-": "write it under [websocket] into a file",
    "--proxy-headers": "name your proxies: --forwarded-allow-ips ADDRESS,...",
    "--no-proxy-headers": 'write --forwarded-allow-ips ""',
    "--root-path": _PREFIX,
    "--script-name": _PREFIX,
    "--no-access-log": 'write --access-logfile ""',
    "--access-logformat": _FORMAT,
    "--log-config": _LOGGING,
    "--max-requests-jitter": "not needed: --max-requests varies by a tenth",
    "--limit-max-requests-jitter": "not needed: --max-requests varies by a tenth",
    "--limit-concurrency": "here clients wait: --worker-connections",
    "--limit-request-line": "write `max_head` under [http] into a file",
    "--limit-request-fields": "write `max_fields` under [http] into a file",
    "--limit-request-field_size": "write `max_head` under [http] into a file",
    "--backlog": _IN_LISTEN.format("backlog = ..."),
    "--reuse-port": _IN_LISTEN.format("reuse_port = true"),
    "--fd": 'here it is --listen systemd (LISTEN_FDS), or --listen "systemd:NAME"',
    "--env-file": "write --env NAME=VALUE, or `env` under [workers] into a file",
    "--lifespan": "write `lifespan` into the [[route]] of a file",
    "--loop": "not needed: asyncio runs in the server's own loop",
    "--http": "not needed: there is one implementation",
    "--ws": "not needed: there is one implementation",
    "--no-server-header": "write `server_header = false` under [http] into a file",
    "--server-header": "it is on by default; write `server_header = false` under [http] into a file",
    "--date-header": "every response has a Date",
    "--no-date-header": "every response has a Date",
    "--header": "let the application or the proxy send it",
    "--h11-max-incomplete-event-size": "write `max_head` under [http] into a file",
    "--preload-app": "here it is --preload",
    "--raw-env": "here it is --env",
    "--name": _TITLES,
    "--proc-name": _TITLES,
    "-n": _TITLES,
    "--worker-tmp-dir": "not needed: workers have no file for their heartbeat",
    "--timeout-worker-healthcheck": "not needed: a worker that hangs is replaced after --timeout",
    "--capture-output": _PRINTED,
    "--enable-stdio-inheritance": _PRINTED,
    "--initgroups": "not needed: workers have the groups of --user",
    "--access-log": "it is on by default; --access-logfile FILE sets its file",
    "--access-log-format": _FORMAT,
    "--log-config-json": _LOGGING,
    "--log-config-dict": _LOGGING,
    "--log-syslog": "there is no syslog here: log to stderr, which journald and containers read, or to a file",
    "--statsd-host": "there is no statsd here: a route with `status = true` has the counters, as JSON",
    "--use-colors": "not needed: there are no colours",
    "--no-use-colors": "not needed: there are no colours",
    "--proxy-protocol": "there is no PROXY protocol here: let the proxy write X-Forwarded-For",
    "--print-config": "here it is `prefork check`, and `prefork schema` for all keys",
    "--check-config": "here it is `prefork check`",
    "--processes": "here it is --workers",
    "-p": "write --port for the port, --pid for the pid file",
    "-s": "here it is `prefork reload`, `prefork stop` and so on",
}
PREFIXES = ("--ssl-", "--ws-")  # of options with the same answer

VARIABLES = {  # of other servers, and the equivalent here: a key or "listen", and the option
    "PORT": ("listen", "--port $PORT"),
    "WEB_CONCURRENCY": ("workers.count", "--workers $WEB_CONCURRENCY"),
    "FORWARDED_ALLOW_IPS": ("http.trusted_proxies", '--forwarded-allow-ips "$FORWARDED_ALLOW_IPS"'),
}
FAMILIES = ("GUNICORN_CMD_ARGS", "UVICORN_", "GRANIAN_")  # how further variables of other servers begin


def passed_over(environ: Mapping[str, str], given: set[str] | None) -> Iterator[str]:
    """A line for each variable that another server would read. `given` are the keys that the command line sets, None if
    a file is the configuration.
    """
    for name, (key, option) in VARIABLES.items():
        if environ.get(name) and given is not None and key not in given:
            yield f"{name} of the environment is not read: write {option}"
    if names := sorted(name for name in environ if name.startswith(FAMILIES)):
        word = "is" if len(names) == 1 else "are"
        yield f"{', '.join(names)} of the environment {word} not read: write options, or keys of a file"
