"""The access log: one line for each request. Owns the formats, and the lines that are not written yet.

A write costs more than a line does, so lines are written together: a tenth of a second after the first of them, or as
soon as there are many. The log has a thread for the former, which sleeps while no line waits. So a line is written in
time even where an application holds up the loop, and an idle process is not woken. On a terminal each line is written
at once, so that it appears in order with the text that the application prints.

A format is compiled once, into a Python function that reads only the values which the format shows. The parts that are
derived from the request line and the header block, escaping included, are kept in their `prepared`, as clients repeat
both. A combined line takes 0.7 us with a head that is repeated, and 1.9 us with a new one (tests/bench/access_log.py).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import cast

from prefork.http.message import Client, Headers, Request, RequestLine
from prefork.observe.sink import Sink
from prefork.runtime import forks
from prefork.settings.wording import nearest

Render = Callable[[Client, RequestLine, Headers, int, int, int, float], str]

_COMMON = '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent'
_COMBINED = f'{_COMMON} "$http_referer" "$http_user_agent"'
_JSON = (
    '{"time":"$time_iso8601","address":$remote_addr,"method":$request_method,"target":$request_uri,'
    '"version":$server_protocol,"status":$status,"sent":$bytes_sent,"body_sent":$body_bytes_sent,"seconds":$request_time,'
    '"referer":$http_referer,"user_agent":$http_user_agent,"host":$host}'
)
_FORMATS = {"common": _COMMON, "combined": _COMBINED, "json": _JSON}

# The expressions for variables in the compiled function. _DIRECT ones are computed for each line; those _OF_LINE and
# _OF_HEADERS are computed once, and kept in `prepared` of the request line and of the header block.
_DIRECT = {
    "remote_addr": "quote_address(client.address)",
    "time_local": "clock.local()",
    "time_iso8601": "clock.iso8601()",
    "status": "status",
    "bytes_sent": "sent",
    "body_bytes_sent": "(sent - head if sent > head else 0)",
    "request_time": "f'{seconds:.6f}'",
    "pid": "getpid()",
}
_OF_LINE = {
    "request": "quote(f'{line.method} {line.target} {line.version}'.strip())",
    "request_method": "quote(line.method)",
    "request_uri": "quote(line.target)",
    "uri": "quote(line.path)",
    "args": "quote(line.query)",
    "server_protocol": "quote(line.version)",
}
_OF_HEADERS = {  # besides every http_NAME
    "host": "quote(headers.fields.get('host', ''))",
    "remote_user": "(quote_user(headers.fields['authorization']) if 'authorization' in headers.fields else '-')",
}
_KNOWN = (*_DIRECT, *_OF_LINE, *_OF_HEADERS, "http_referer", "http_user_agent", "http_x_forwarded_for")

_SOURCE = """\
def render(client, line, headers, status, head, sent, seconds):
    of_line = line.prepared.get(key) or line.prepared.setdefault(key, ({of_line}))
    of_headers = headers.prepared.get(key) or headers.prepared.setdefault(key, ({of_headers}))
    return {template!r} % ({values})
"""

_PART = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z0-9_]+)|\{(?P<braced>[A-Za-z0-9_]+)\})|(?P<text>[^$]+)|\$")
_SAFE = re.compile(r"[ !#-\[\]-~]*")  # printable ASCII without the quote and the backslash
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

DELAY = 0.1  # seconds that a line may wait for others
BATCH = 64 * 1024  # characters of lines that are written at once, without the delay

_NO_LINE = RequestLine("", "", "", "", "", 1)
_NO_LINE.version = ""
_NO_HEADERS = Headers({})


class AccessLog:
    """Renders requests into lines. It writes the lines of `delay` seconds together, or sooner, once there are `batch`
    characters of them. Before `start`, lines wait for `batch` characters or `flush`.

    Only the thread that leads the loop may call `record`, `start` and `stop`; any thread may call the rest. In a
    process that an application has forked, nothing is written: the lines that wait there are the parent's to write.
    """

    def __init__(self, format: str, sink: Sink, delay: float = DELAY, batch: int = BATCH) -> None:
        self._render = compile_format(format)
        self._sink = sink
        self._delay = delay
        self._batch = batch
        self._lines: list[str] = []  # one thread appends to it while another takes the first ones out
        self._size = 0
        self._lock = threading.RLock()  # held to write to the sink
        self._writing = False
        self._over = False
        self._expected = True  # our thread need not be woken: it knows that lines wait, or there is no thread
        self._rouse = threading.Lock()
        self._rouse.acquire()

    def start(self) -> None:
        """Start the thread that writes lines after the delay, or on a terminal write each line at once from now on.
        Raises RuntimeError where the system can make no thread.
        """
        if os.isatty(self._sink.fileno()):
            self._batch = 0
        else:
            self._expected = False
            threading.Thread(target=self._write_in_time, name="prefork-access-log", daemon=True).start()

    def stop(self) -> None:
        """Write the lines that wait, and from now on each line at once."""
        self._batch, self._over = 0, True
        if not self._expected:
            self._expected = True
            self._rouse.release()
        self.flush()

    def record(
        self, client: Client, request: Request | None, status: int, head: int, sent: int, seconds: float
    ) -> None:
        """Add a line for a request: `sent` bytes in `seconds`, of which the first `head` were the response's head.

        `request` is None where its head could not be parsed.
        """
        if request is None:
            line = self._render(client, _NO_LINE, _NO_HEADERS, status, head, sent, seconds)
        else:
            line = self._render(client, request.line, request.headers, status, head, sent, seconds)
        self._lines.append(line)
        self._size += len(line)  # without a lock: a bit too large if another thread takes lines meanwhile
        if self._size >= self._batch:
            self.flush()
        elif not self._expected:
            self._expected = True
            self._rouse.release()

    def flush(self) -> None:
        """Write the lines that wait."""
        if forks.forked:
            return
        with self._lock:
            if not self._writing:  # else a signal handler or a destructor has interrupted a write, and logs an error
                self._writing = True
                try:
                    self._write()
                finally:
                    self._writing = False

    def _write(self) -> None:
        self._size = 0
        if count := len(self._lines):
            text = "".join(self._lines[:count])
            del self._lines[:count]
            self._sink.recover()
            self._sink.write(text.encode())

    def reopen(self) -> str:
        """Write the lines that wait to the old file, and open the new one: see Sink.reopen."""
        with self._lock:
            self.flush()
            return self._sink.reopen()

    def _write_in_time(self) -> None:
        """The loop of the log's own thread."""
        while not self._over:
            forks.leave_if_forked()
            self._rouse.acquire()
            time.sleep(self._delay)
            self._expected = False  # before the lines are taken: a line that is added from here on wakes this thread
            self.flush()


def compile_format(format: str) -> Render:
    """The function that renders a line, newline included. `format` is "common", "combined", "json", or text with
    $variables.

    Raises ValueError where the name or a variable is unknown, or the text has a control character other than a tab.
    """
    template = _FORMATS.get(format, format)
    if "$" not in template:
        raise ValueError(f"unknown format {format!r}{_suggestion(format, _FORMATS)}")
    if not template.replace("\t", " ").isprintable():
        raise ValueError("control characters other than a tab are not allowed in a log format")
    text, values = "", []
    of_line: list[str] = []
    of_headers: list[str] = []
    for part in _PART.finditer(template):
        if name := part["name"] or part["braced"]:
            text += "%s"
            values.append(_expression(name, of_line, of_headers))
        elif part["dollar"]:
            text += "$"
        elif part["text"]:
            text += part["text"].replace("%", "%%")
        else:
            raise ValueError(f"${template[part.end() :][:10]}: a variable is $name or ${{name}}, a dollar sign is $$")
    source = _SOURCE.format(
        of_line=_tuple(of_line), of_headers=_tuple(of_headers), template=text + "\n", values=_tuple(values)
    )
    quote = _quote_json if format == "json" else _quote_text
    names: dict[str, object] = {
        "key": f"access_log {format}",
        "quote": quote,
        "quote_address": lru_cache(1024)(quote),
        "quote_user": lambda authorization: quote(_user(authorization)).replace(" ", r"\x20"),  # no quotes around it
        "clock": _Clock(),
        "getpid": os.getpid,
    }
    exec(source, names)  # the only parts of the template in it are checked names, and literals as their repr
    return cast(Render, names["render"])


def _expression(name: str, of_line: list[str], of_headers: list[str]) -> str:
    """The expression for the variable `name`. An expression whose value is kept in `prepared` is added to one of the
    lists, and the result is one that reads the kept value. Raises ValueError for an unknown variable.
    """
    if name in _DIRECT:
        return _DIRECT[name]
    if name in _OF_LINE:
        of_line.append(_OF_LINE[name])
        return f"of_line[{len(of_line) - 1}]"
    if name in _OF_HEADERS:
        of_headers.append(_OF_HEADERS[name])
    elif field := name.removeprefix("http_") if name.startswith("http_") else "":
        of_headers.append(f"quote(headers.get({field.lower().replace('_', '-')!r}))")
    else:
        raise ValueError(f"unknown variable ${name}{_suggestion(name, _KNOWN, '$')}")
    return f"of_headers[{len(of_headers) - 1}]"


def _tuple(expressions: list[str]) -> str:
    return "".join(f"{expression}, " for expression in expressions)


def _suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    near = nearest(word, known)
    return f"; did you mean {prefix}{near}?" if near else ""


_ESCAPES = {code: f"\\x{code:02X}" for code in range(256) if not _SAFE.fullmatch(chr(code))}


def _quote_text(text: str) -> str:
    r"""`text` with quotes, backslashes and all but printable ASCII as \xHH, as nginx has it; "-" for an empty one."""
    if _SAFE.fullmatch(text):
        return text or "-"
    return text.translate(_ESCAPES)


def _user(authorization: str) -> str:
    """The user of Basic credentials (RFC 7617 §2), without the password; "" where there is none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        user, colon, _ = b64decode(encoded.strip(" "), validate=True).decode("latin-1").partition(":")
    except ValueError:
        return ""
    return user if colon else ""


_encode_json = json.JSONEncoder().encode


def _quote_json(text: str) -> str:
    """`text` as a JSON string of printable ASCII."""
    return _encode_json(text).replace("\x7f", "\\u007f")


class _Clock:
    """The local time as text, which is made once a second. Month names are English in any locale."""

    def __init__(self) -> None:
        self._second = -1
        self._local = self._iso8601 = self._zone = ""

    def local(self) -> str:
        """`10/Oct/2000:13:55:36 -0700`"""
        second = time.time_ns() // 1_000_000_000
        if second != self._second:
            self._turn(second)
        return self._local

    def iso8601(self) -> str:
        """`2000-10-10T13:55:36.123-07:00`"""
        second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second:
            self._turn(second)
        return f"{self._iso8601}.{milliseconds:03d}{self._zone}"

    def _turn(self, second: int) -> None:
        when = time.localtime(second)
        zone = time.strftime("%z", when)
        self._local = time.strftime(f"%d/{_MONTHS[when.tm_mon - 1]}/%Y:%H:%M:%S {zone}", when)
        self._iso8601 = time.strftime("%Y-%m-%dT%H:%M:%S", when)
        self._zone = f"{zone[:3]}:{zone[3:]}"
        self._second = second
