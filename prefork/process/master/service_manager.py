"""The service manager: tells systemd, or another one with its protocol, how the server stands (sd_notify(3)).

Owns the environment variables by which the manager is reached: no application may see them, and no process that it
starts may use them.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from time import monotonic_ns

from prefork.logger import log
from prefork.runtime.loop import Loop

SOCKET = "NOTIFY_SOCKET"
INTERVAL = "WATCHDOG_USEC"
WATCHED = "WATCHDOG_PID"
SEND_TIMEOUT = 0.2  # seconds that the manager has to take a message


class ServiceManager:
    """The service manager that has started this server. Where there is none that wants messages, nothing is sent."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes the manager's variables out of `environment`."""
        taken = {name: environment.pop(name, "") for name in (SOCKET, INTERVAL, WATCHED)}
        self._address = taken[SOCKET]
        watched = taken[WATCHED] in ("", str(os.getpid())) and re.fullmatch("[0-9]{1,15}", taken[INTERVAL])
        self._interval = int(taken[INTERVAL]) if watched else 0  # microseconds

    def environment(self) -> dict[str, str]:
        """The variables for this process, as the new master in an upgrade: they name it in the place of the old one."""
        variables = {SOCKET: self._address} if self._address else {}
        return {**variables, **({INTERVAL: str(self._interval), WATCHED: str(os.getpid())} if self._interval else {})}

    def ready(self, status: str) -> None:
        """The server serves: it has started, or a reload or a change of its size has been made, or has failed."""
        self._tell("READY=1", _status(status))

    def status(self, status: str) -> None:
        """Tell how the server stands, in words."""
        self._tell(_status(status))

    def reloading(self) -> None:
        # by this time, Type=notify-reload tells this reload from an earlier one
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}", _status("reloading"))

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", _status(status))

    def succeeded(self, pid: int, status: str) -> None:
        """Name `pid` as the server from now on. This process sends nothing more."""
        self._tell(f"MAINPID={pid}", "READY=1", _status(status))
        self._address, self._interval = "", 0

    async def feed(self, loop: Loop, is_healthy: Callable[[float], bool]) -> None:
        """Feed the manager's watchdog, if there is one, twice in each interval, but only while the server is healthy.
        `is_healthy` is called with the seconds for which a worker may be stuck.
        """
        seconds = self._interval / 1e6
        fed = True
        while self._interval:
            await loop.sleep(seconds / 2)
            before, fed = fed, is_healthy(seconds)
            if fed:
                self._tell("WATCHDOG=1")
            elif before:
                log.error("no worker serves, so the service manager's watchdog is not fed")

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
            talk.settimeout(SEND_TIMEOUT)
            talk.sendto("\n".join(assignments).encode("utf-8", "backslashreplace"), address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
