"""The errors that prefork raises on purpose. Owns the mapping from a protocol error to its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence


class PreforkError(Exception):
    """The root of these errors. (Superseded and Deposed, which unwind a coroutine or a thread, are none of them.)"""


class ConfigError(PreforkError):
    """The operator wrote something that cannot be served. `problems` has one `file: key: what was expected` a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StartError(PreforkError):
    """The server cannot start here, or cannot be reached: a port is in use, a pid file is held. It has one line, which
    names the way out. `problems`, as in a ConfigError, are lines to be told before it.
    """

    def __init__(self, line: str, problems: Sequence[str] = ()) -> None:
        super().__init__(line)
        self.problems = problems


class BootError(PreforkError):
    """A worker or a new master could not get ready, or the master cannot carry out an operation now. `report` is the
    traceback or the output of the process that failed, or empty.
    """

    def __init__(self, reason: str, report: str = "") -> None:
        super().__init__(reason)
        self.report = report


class MalformedMessage(PreforkError):
    """Another process of the server has sent a message that cannot be understood, or that nobody has asked for."""


class TargetError(PreforkError):
    """A `module:attribute` target does not lead to an application."""


class LifespanError(PreforkError):
    """An ASGI application's lifespan could not start. Its cause, if any, is the application's own exception."""


class ClientGone(PreforkError, OSError):
    """Raised in an application that sends to a client that is gone, under ASGI also once the response is over (ASGI
    2.4). It comes from `send`, or from WSGI's write(), where gunicorn and mod_wsgi raise an OSError, too. A body
    without end that no client will see ends by it as well.
    """


class BodyLost(PreforkError, OSError):
    """Raised in a WSGI application that reads a request body of which no more can come: for frameworks, an OSError."""


class ForkedError(PreforkError, OSError):
    """Raised in a process that an application has forked, where it asks for something that only its parent can give."""

    def __init__(self) -> None:
        super().__init__("this process was forked by the application: the request belongs to its parent")


class TimedOut(PreforkError):
    """Raised in a task whose deadline has passed, or that must not wait any longer."""


class Disconnected(PreforkError):
    """The peer is gone, or the stream is at its end where bytes were due. An event, not a fault."""


class Abandoned(Disconnected):
    """Nobody waits for this call's outcome any more: it has taken too long, and its client has had its answer."""


class CutShort(PreforkError, EOFError):
    """A file has become shorter than the length announced for it, while it was being sent."""

    def __init__(self) -> None:
        super().__init__("the file was cut short while it was being sent")


class ApplicationError(PreforkError):
    """An application broke its contract (PEP 3333, field syntax, Content-Length). Its client gets a 500, or a
    connection that is cut where the response has begun.
    """


class ProtocolError(PreforkError):
    """The client broke the protocol. `status` is that of the answer, after which the connection closes."""

    status = 400


class BadRequest(ProtocolError):
    """400: a head or a body that RFC 9112 does not allow."""


class RequestTimeout(ProtocolError):
    """408: the head or the body did not arrive in time (RFC 9110 §15.5.9)."""

    status = 408


class BodyTooLarge(ProtocolError):
    """413: a body beyond `max_body`, of its route or of `http` (RFC 9110 §15.5.14)."""

    status = 413


class TargetTooLong(ProtocolError):
    """414: a request line that alone is beyond `http.max_head` (RFC 9110 §15.5.15)."""

    status = 414


class ExpectationFailed(ProtocolError):
    """417: an Expect other than 100-continue (RFC 9110 §10.1.1)."""

    status = 417


class HeadTooLarge(ProtocolError):
    """431: a head beyond `http.max_head` or `http.max_fields` (RFC 6585 §5)."""

    status = 431


class NotImplementedHere(ProtocolError):
    """501: a transfer coding other than chunked (RFC 9112 §6.1), or the CONNECT method."""

    status = 501


class TooManyConnections(ProtocolError):
    """503: one address has more connections than `http.connections_per_client`, or all places are taken for long."""

    status = 503


class ServerLeaving(ProtocolError):
    """503: the server leaves, and has ended the application's call before there was a response."""

    status = 503


class VersionNotSupported(ProtocolError):
    """505: neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 §15.6.6)."""

    status = 505
