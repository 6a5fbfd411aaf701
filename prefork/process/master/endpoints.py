"""Endpoints: the pid file and the control socket, by which others find the master. Owns both; a master may do without
either.
"""

from __future__ import annotations

from collections.abc import Iterator

from prefork.process.master.control import ControlSocket
from prefork.process.master.pid_file import PidFile


class Endpoints:
    """The endpoints of one master. `take_pid_file` and `take_control` add those that the settings name."""

    def __init__(self, pid_file: PidFile | None = None, control: ControlSocket | None = None) -> None:
        self.pid_file = pid_file
        self.control = control

    def __iter__(self) -> Iterator[PidFile | ControlSocket]:
        """The control socket first: another master may start as soon as the pid file is gone."""
        if self.control is not None:
            yield self.control
        if self.pid_file is not None:
            yield self.pid_file

    def take_pid_file(self, path: str) -> None:
        """Make and lock the pid file `path`, "" for none, unless there is a pid file already. Raises StartError."""
        if path and self.pid_file is None:
            self.pid_file = PidFile(path)

    def take_control(self, path: str) -> None:
        """Bind the control socket `path`, "" for none, unless there is one already. Raises StartError."""
        if path and self.control is None:
            self.control = ControlSocket(path)

    def write(self, pid: int) -> None:
        """Write `pid` to the pid file, if there is one. Raises StartError."""
        if self.pid_file is not None:
            self.pid_file.write(pid)

    def lend(self, lent: bool) -> None:
        """Set whether another master will remove the endpoints."""
        for endpoint in self:
            endpoint.lent = lent

    def remove(self) -> None:
        for endpoint in self:
            endpoint.remove()

    def close_in_child(self) -> None:
        for endpoint in self:
            endpoint.close_in_child()
