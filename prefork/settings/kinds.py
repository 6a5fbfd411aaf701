"""Kinds of values. Owns how each is written in TOML: in words, as a type, and by a reader. Owns no key and no default.

Paths are checked in the file system here, so that a missing directory is reported with the other problems.
"""

from __future__ import annotations

import grp
import ipaddress
import math
import os
import pwd
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from prefork.settings import requests
from prefork.settings.address import Address
from prefork.settings.grammar import FIELD_VALUE, HOP_BY_HOP, TOKEN
from prefork.settings.target import Target
from prefork.settings.wording import found, quoted

T = TypeVar("T")

MOST_WORKERS = 1024
LONGEST_SOCKET_PATH = 100  # bytes; sockaddr_un holds 104 on BSD and macOS, 108 on Linux
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_END = r"(?!\n)$"  # `$` alone would allow a last newline in Python, and JSON Schema does not know \Z
_SIZE = re.compile(rf"^([0-9]{{1,9}}) ?(B|KiB|MiB|GiB){_END}")
X_FORWARDED = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port")
_FAMILIES = {"x-forwarded": X_FORWARDED, "forwarded": ("forwarded",)}
# The server frames messages itself (RFC 9112 §6), and `type` is the content type.
_OWN_FIELDS = HOP_BY_HOP | {"content-length", "content-type"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: `expected` describes it in words, msgspec checks the type `written`, `read` makes the value.

    `read` raises ValueError: with a message of its own, or without one for "expected {expected}, got ...".
    """

    expected: str
    written: Any
    read: Callable[[Any], Any] = lambda value: value

    def convert(self, raw: object) -> Any:
        """The value of the Struct for `raw`. Raises ValueError, which says what was expected and what was found."""
        try:
            return self.read(msgspec.convert(raw, self.written))
        except (msgspec.ValidationError, ValueError) as error:
            own = "" if isinstance(error, msgspec.ValidationError) else str(error)
            raise ValueError(own or f"expected {self.expected}, got {found(raw)}") from None


@dataclass(frozen=True, slots=True)
class Entries:
    """A table with names that the operator chooses: the kinds of its names and of its values."""

    name: Kind
    value: Kind


def choice(*names: str) -> Kind:
    return Kind("one of " + ", ".join(f'"{name}"' for name in names), Literal[names])


def integer(least: int, most: int) -> Kind:
    return Kind(f"an integer from {least} to {most}", Annotated[int, Meta(ge=least, le=most)])


def size(least: int) -> Kind:
    """A number of bytes, as an integer or as text with a binary unit. A value below `least` is an error."""

    def read(value: int | str) -> int:
        if isinstance(value, str):
            match = _SIZE.fullmatch(value)
            value = int(match[1]) * _UNITS[match[2]] if match else -1
        return _when(value >= least, value)

    words = 'a size: bytes as an integer, or text such as "64KiB", "16MiB" or "1GiB"'
    written = Annotated[int, Meta(ge=least)] | Annotated[str, Meta(pattern=_SIZE.pattern)]
    return Kind(words if least == 0 else f"{words}, at least {least}", written, read)


def _when(condition: object, value: T) -> T:
    """`value` if the condition holds. Else raises ValueError without a message, for that of the kind."""
    if not condition:
        raise ValueError
    return value


def _target(text: str) -> str:
    try:
        Target.parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, got {quoted(text)}" if str(error) else "") from None
    return text


def _field_name(text: str) -> str:
    if text.lower() in _OWN_FIELDS:
        hint = 'write "type" beside "headers"' if text.lower() == "content-type" else "the server sets it itself"
        raise ValueError(f"expected no {text} header: {hint}")
    return _when(TOKEN.fullmatch(text), text)


def _file_name(text: str) -> str:
    return _when("\0" not in text, text)


def _log_file(text: str) -> str:
    folder = os.path.dirname(_file_name(text))
    if folder and not os.path.isdir(folder):
        raise ValueError(f"expected a file in an existing directory, got {quoted(text)}: no directory {quoted(folder)}")
    return text


def _socket_path(text: str) -> str:
    try:
        length = len(os.fsencode(os.path.abspath(_file_name(text))))
    except OSError:
        raise ValueError(
            f"expected an absolute path, since the current directory is gone, got {quoted(text)}"
        ) from None
    if length > LONGEST_SOCKET_PATH:
        limit = f"at most {LONGEST_SOCKET_PATH} bytes when absolute, as a unix socket needs"
        raise ValueError(f"expected a path of {limit}, got {length} bytes: {quoted(text)}")
    return text


def _address(text: str) -> Address:
    address = Address.parse(text)
    if address.kind == "unix":
        _socket_path(address.path)
    return address


def _symlinks(text: str) -> str:
    if text == "owner" and sys.platform != "linux":
        raise ValueError('expected "inside", "all" or "none": for "owner" this platform lacks O_PATH and /proc/self/fd')
    return text


def _field_text(text: str) -> str:
    return _when(FIELD_VALUE.fullmatch(text), text)


def _variable(text: str) -> str:
    if text == "PYTHONPATH":
        raise ValueError('expected no PYTHONPATH, which Python has read already: write "pythonpath" beside "env"')
    return _when(not {"=", "\0"} & set(text), text)


_NON_EMPTY = Annotated[str, Meta(min_length=1)]
_ID = Annotated[int, Meta(ge=0, lt=2**32 - 1)] | _NON_EMPTY


def _directories(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        if not os.path.isdir(_file_name(text)):
            raise ValueError(f"expected a list of existing directories, got {quoted(text)}")
    return tuple(texts)


def _proxies(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        try:
            _when(text == "unix" or ipaddress.ip_network(text), text)
        except ValueError:
            way_out = '; for all of them write "0.0.0.0/0", "::/0" and "unix"' if text == "*" else ""
            expected = 'expected addresses, networks such as "10.0.0.0/8", or "unix"'
            raise ValueError(f"{expected}, got {quoted(text)}{way_out}") from None
    return tuple(texts)


def _trusted_fields(value: str | list[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        return _FAMILIES[value]
    names = tuple(name.lower() for name in value)
    for name in names:
        if name in HOP_BY_HOP | {"host", "content-length", "expect"} or not TOKEN.fullmatch(name):
            raise ValueError(f"expected names of fields that only a proxy writes, got {quoted(name)}")
    if "forwarded" in names and {"x-forwarded-for", "x-forwarded-proto"} & set(names):
        raise ValueError("expected either Forwarded, or X-Forwarded-For and X-Forwarded-Proto, got both")
    return names


def _user(value: int | str) -> int:
    try:
        return value if isinstance(value, int) else pwd.getpwnam(value).pw_uid
    except KeyError:
        raise ValueError(f"expected a user that exists, got {quoted(str(value))}") from None


def _group(value: int | str) -> int:
    try:
        return value if isinstance(value, int) else grp.getgrnam(value).gr_gid
    except KeyError:
        raise ValueError(f"expected a group that exists, got {quoted(str(value))}") from None


def _media_types(texts: list[str]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


def _codings(names: str | list[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else _when(len(set(names)) == len(names), tuple(names))


FLAG = Kind("true or false", bool)
ONLY_TRUE = Kind("true", Annotated[bool, Meta(extra_json_schema={"const": True})], lambda flag: _when(flag, flag))
TEXT = Kind("a text", str)
TIMEOUT = Kind("a number of seconds, or 0 for none", Annotated[float, Meta(ge=0)], lambda s: _when(math.isfinite(s), s))
DELAY = Kind("a number of seconds", Annotated[float, Meta(ge=0)], lambda s: _when(math.isfinite(s), s))
SECONDS = Kind("a number of seconds above 0", Annotated[float, Meta(gt=0)], lambda s: _when(math.isfinite(s), s))
WORKERS = Kind(
    f'an integer from 1 to {MOST_WORKERS} or "auto"', Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | Literal["auto"]
)
MODE = Kind(
    'permissions such as "660" or 0o660',
    Annotated[int, Meta(ge=0, le=0o777)] | Annotated[str, Meta(pattern=f"^0?[0-7]{{3}}{_END}")],
    lambda value: int(value, 8) if isinstance(value, str) else value,
)
UMASK = replace(MODE, expected='a umask such as "027" or 0o027')
USER = Kind("a user's name or number", _ID, _user)
GROUP = Kind("a group's name or number", _ID, _group)
ADDRESS = Kind('an address such as "127.0.0.1:8000"', str, _address)
FILE = Kind('a file name, or "" for none', str, _file_name)
SOCKET = Kind('a file name, or "" for none', str, lambda text: _socket_path(text) if text else text)
INDEX = Kind('a file name without "/", several, or "" for none', str | list[str], requests.index)
TRIES = Kind(
    'a list of paths such as "$uri" and "/index.html"', Annotated[list[str], Meta(min_length=1)], requests.tries
)
SYMLINKS = Kind('one of "inside", "owner", "all", "none"', Literal["inside", "owner", "all", "none"], _symlinks)
PATTERN = Kind('a pattern such as "*.html" or "/assets/*"', _NON_EMPTY, requests.file_pattern)
FILE_TYPE = Kind('an extension such as ".md", a file name, or "*"', _NON_EMPTY, requests.file_type)
EXISTING_FILE = Kind("an existing file", _NON_EMPTY, lambda text: _when(os.path.isfile(text), text))
ERROR_STATUS = Kind("a status from 400 to 599", Annotated[str, Meta(pattern=f"^[45][0-9]{{2}}{_END}")])
DIRECTORY = Kind("an existing directory", _NON_EMPTY, lambda text: _when(os.path.isdir(text), text))
ERROR_LOG = Kind('"-" for stderr, or a file name', _NON_EMPTY, _log_file)
ACCESS_LOG = Kind('"-" for stderr, "" for none, or a file name', str, _log_file)
LOG_FORMAT = Kind(
    'one of "common", "combined", "json", or a template with "$" variables',
    Annotated[str, Meta(pattern=rf"^(common|combined|json){_END}|\$")],
)
HOST = Kind('a host name such as "example.com" or "*.example.com", without a port', str, requests.host)
PATH = Kind(
    'a path that starts with "/" and has no "?", "#", "//", no "." or ".." segments and no control characters',
    Annotated[str, Meta(pattern=rf"^/[^?#]*{_END}")],
    requests.path,
)
TARGET = Kind(
    '"module:attribute", such as "myproject.wsgi:application" or "myapp:create_app()"',
    Annotated[str, Meta(pattern=rf"^[^:]+(:.+)?{_END}")],
    _target,
)
DIRECTORIES = Kind("a list of existing directories", list[_NON_EMPTY], _directories)
VARIABLE = Kind('the name of an environment variable, without "="', _NON_EMPTY, _variable)
VARIABLE_TEXT = Kind("a text without NUL", str, _file_name)
PROXIES = Kind('a list of addresses, networks such as "10.0.0.0/8", or "unix"', list[str], _proxies)
TRUSTED_FIELDS = Kind(
    '"x-forwarded", "forwarded", or a list of the fields that your proxies write',
    Literal["x-forwarded", "forwarded"] | list[_NON_EMPTY],
    _trusted_fields,
)
FIELD_NAME = Kind("a header name of letters, digits and dashes", str, _field_name)
FIELD_TEXT = Kind("latin-1 text without control characters", str, _field_text)
LOCATION = Kind("a path or URL in latin-1, without control characters", _NON_EMPTY, requests.location)
REDIRECT_STATUS = Kind("one of 301, 302, 303, 307, 308", Literal[301, 302, 303, 307, 308])
CODINGS = Kind(
    '"auto" or a list of "zstd", "br" and "gzip", each once',
    Literal["auto"] | Annotated[list[Literal["zstd", "br", "gzip"]], Meta(extra_json_schema={"uniqueItems": True})],
    _codings,
)
MEDIA_TYPES = Kind(
    'a list of media types such as "text/html", in which "*" stands for any text',
    list[Annotated[str, Meta(pattern=rf"^[a-zA-Z0-9*!#$&^_.+/-]+{_END}")]],
    _media_types,
)
