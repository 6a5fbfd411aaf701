"""Addresses to listen on. Owns their written form; binds nothing and resolves no name."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal

from prefork.settings.wording import quoted

# A name to look up: labels as of RFC 1123 §2.1, and the underscore that container networks use. A client may write
# more into Host (grammar.NAME).
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}")
_FORMS = 'an address such as "127.0.0.1:8000", "[::1]:8000", ":8000" or "unix:run/app.sock"'
_SYSTEMD = re.compile(r"systemd(?::([\x21-\x39\x3b-\x7e]+))?")  # a FileDescriptorName= (systemd.socket(5))


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP `host` and `port` (0: the kernel chooses one); or the `path` of a unix socket, relative to the cwd; or the
    sockets that the service manager passes, by the name `path`, "" for all.

    If each worker has a socket of its own, `number`, from 1 on, tells them apart; 0 is one socket for all workers.
    """

    kind: Literal["tcp", "unix", "systemd"]
    host: str = ""
    port: int = 0
    path: str = ""
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "HOST:PORT", "[IPv6]:PORT", ":PORT" (all of IPv4), "unix:PATH", "systemd" or "systemd:NAME".

        Raises ValueError with the reason, for the operator.
        """
        if passed := _SYSTEMD.fullmatch(text):
            return cls("systemd", path=passed[1] or "")
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path:
                raise ValueError(f'expected a path after "unix:", got {quoted(text)}')
            return cls("unix", path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port:
            raise ValueError(f"expected {_FORMS}, got {quoted(text)}: the port is missing")
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise ValueError(f"expected a port from 0 to 65535, got {quoted(text)}")
        return cls("tcp", _host(host, text), int(port))

    def numbered(self, number: int) -> Address:
        """The same address with this number."""
        return replace(self, number=number)

    @property
    def url(self) -> str:
        """The URL for a browser; a unix socket has none and stays as it is written."""
        return f"http://{self}/" if self.kind == "tcp" else str(self)

    def __str__(self) -> str:
        if self.kind != "tcp":
            return f"{self.kind}:{self.path}" if self.path else self.kind
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _host(host: str, text: str) -> str:
    """`host` in a normal form, so that equal addresses compare equal. `text` is the whole address, for the message.

    Raises ValueError.
    """
    if not host:
        return "0.0.0.0"
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1]))
        if re.fullmatch(r"[0-9.]+", host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError(f"expected an IP address before the port, got {quoted(text)}") from None
    if ":" in host and "/" not in host:
        raise ValueError(f'expected an IPv6 address in brackets, as in "[::1]:8000", got {quoted(text)}')
    if not _NAME.fullmatch(host.lower()):
        raise ValueError(f"expected {_FORMS}, got {quoted(text)}")
    return host.lower()
