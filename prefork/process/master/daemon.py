"""The daemon: `start --daemon` puts the server in the background, and its caller waits until the server is ready. Owns
the two forks for that.

The server leaves the session of its caller (daemon(7)). So no terminal can stop it, and it holds neither a terminal nor
a pipe that somebody waits for. Until it is ready, it writes to copies of the caller's standard streams, which its
children do not have. So the caller sees what keeps the server from starting.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import sys
from contextlib import suppress

READY = b"ready\n"


class Daemon:
    """Makes the server a process in the background. The constructor returns there; in the caller it raises SystemExit,
    with 0 when the server is ready and else with 1, or KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._streams = [os.dup(descriptor) for descriptor in (1, 2)]
        reading, self._told = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            os.close(self._told)
            self._wait(child, reading)
        os.close(reading)
        os.setsid()
        if os.fork():
            os._exit(os.EX_OK)
        os.write(self._told, f"{os.getpid()}\n".encode())
        self._close_others()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            if descriptor == 0 or not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
        os.close(nowhere)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in self._streams)

    def _close_others(self) -> None:
        """Close what else the caller has handed down, perhaps without knowing. The server would hold it as long as it
        runs.
        """
        begin = 3
        for own in sorted((self._told, *self._streams)):
            os.closerange(begin, own)
            begin = own + 1
        os.closerange(begin, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20))

    def _wait(self, child: int, reading: int) -> None:
        """In the caller: wait until the server is ready or has ended, and exit. Ctrl-C stops the server."""
        os.waitpid(child, 0)
        text = b""
        try:
            while piece := os.read(reading, 4096):
                text += piece
                if text.endswith(READY):
                    sys.exit(os.EX_OK)
        except KeyboardInterrupt:
            with suppress(ValueError, ProcessLookupError):
                os.kill(int(text), signal.SIGTERM)
            raise
        sys.exit(1)

    @property
    def is_mute(self) -> bool:
        """Whether standard error is lost: only a regular file stays open."""
        return not stat.S_ISREG(os.fstat(2).st_mode)

    def close_in_child(self) -> None:
        """Have only the streams that the server keeps: a child must not hold those of the caller."""
        if self._streams:
            os.close(self._told)
            self._turn_away()

    def let_go(self) -> None:
        """The server is ready: tell the caller, and close the copies of the caller's streams."""
        with suppress(OSError):  # the caller may have been killed
            os.write(self._told, READY)
        os.close(self._told)
        self._turn_away()

    def _turn_away(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.close()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        self._streams.clear()
