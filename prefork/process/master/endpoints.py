"""Endpoints: by what others find the master, its pid file and its control socket. It may go without either."""

from __future__ import annotations

from collections.abc import Iterator

from prefork.process.master.control import ControlSocket
from prefork.process.master.pid_file import PidFile


class Endpoints:
    """Those that there are; further ones are `taken` where the settings name a path."""

    def __init__(self, pid_file: PidFile | None = None, control: ControlSocket | None = None) -> None:
        self.pid_file = pid_file
        self.control = control

    def __iter__(self) -> Iterator[PidFile | ControlSocket]:
        """The control socket first: who finds the pid file gone may begin."""
        if self.control is not None:
            yield self.control
        if self.pid_file is not None:
            yield self.pid_file

    def take_pid_file(self, path: str) -> None:
        """Lock the file `path`, "" for none, unless there is one. Raises StartError."""
        if path and self.pid_file is None:
            self.pid_file = PidFile(path)

    def take_control(self, path: str) -> None:
        """Make the socket `path`, "" for none, unless there is one. Raises StartError."""
        if path and self.control is None:
            self.control = ControlSocket(path)

    def write(self, pid: int) -> None:
        """Make `pid` known in the pid file, if there is one. Raises StartError."""
        if self.pid_file is not None:
            self.pid_file.write(pid)

    def lend(self, lent: bool) -> None:
        """Say whether they are another master's to remove."""
        for endpoint in self:
            endpoint.lent = lent

    def remove(self) -> None:
        for endpoint in self:
            endpoint.remove()

    def close_in_child(self) -> None:
        for endpoint in self:
            endpoint.close_in_child()
