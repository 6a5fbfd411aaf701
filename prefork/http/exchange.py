"""The exchange: a request and its response, whichever version of HTTP carries them.

Owns its phases, and the end of one that goes wrong: the log entry, the 500, and the closing of the body.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from prefork.http.message import Body, FileSegment, Request, Response, Upgrade, plain
from prefork.logger import log
from prefork.runtime.task import Task


class Phase(Enum):
    RECEIVING = auto()  # the head has not come, or is refused
    HANDLING = auto()  # a handler has the request
    SENDING = auto()  # the kernel has not taken the whole response
    UPGRADED = auto()  # another protocol has the stream


class Exchange(Protocol):
    """The part of an exchange that the registry, the drain and the diagnostics use.

    `request` is None while RECEIVING. `since` is when the exchange began (monotonic seconds). `task` runs its handler,
    or is None where nothing does. `upgrade` is the body of its 101, while that has the stream.

    Any thread may read these attributes. The phase is told from the others, so that it cannot contradict them.
    """

    request: Request | None
    since: float
    task: Task | None
    upgrade: Upgrade | None

    @property
    def phase(self) -> Phase: ...

    def give_up(self) -> None:
        """Answer 504 in place of the task whose application has not returned in time.

        From now on that task has no part in this exchange, whenever its application returns.
        """


def failed(request: Request, error: BaseException) -> Response:
    """Log `error`, which an application or a handler raised, with its stack. Returns the 500 for the client."""
    log.error("%s %s failed: %r", request.method, request.target, error, exc_info=error)
    return plain(500)


async def release(body: Body) -> None:
    """Close a response's body, whether it was sent or not."""
    if isinstance(body, FileSegment):
        body.close()
    elif not isinstance(body, bytes):
        await body.aclose()
