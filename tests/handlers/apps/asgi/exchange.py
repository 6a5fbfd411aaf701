"""What the tests of ASGI share: an application that is a function in the test, a real Connection, and asyncio as guest.

By the time the answer is there, all is done: the connections, and the application's tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prefork.handlers.apps.asgi.application import ABANDONED_TIMEOUT, Asgi
from prefork.http.message import Client
from prefork.http.registry import Server
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Http
from prefork.shared.counters import WIDTH
from tests.e2e.asgi_validator import Validator
from tests.handlers.exchange import CLIENT, PATIENCE, Answer, Manner, _Talk, parse, request

Application = Callable[..., Awaitable[None]]
STAYS = 1 << 40  # as hang_up_after: the client does not half-close, and reads until the server closes
START = {"type": "http.response.start", "status": 200, "headers": []}


def meet(
    application: Application,
    *sent: bytes,
    mount: str = "",
    client: Client = CLIENT,
    http: Http | None = None,
    poller: str = "auto",
    lifespan: bool = False,
    abandoned_timeout: float = ABANDONED_TIMEOUT,
    sweep: float = SWEEP,
    **manner: Any,
) -> list[bytes]:
    """What the server answers to several clients at once, who send these bytes; for `manner` see Manner.

    The application hears of its requests alone, unless `lifespan`.
    """

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await application(scope, receive, send)

    loop = Loop(make_poller(poller), sweep=sweep)
    asgi = Asgi(loop, abandoned_timeout=abandoned_timeout)
    validator = Validator(application if lifespan else without_lifespan)
    handler = asgi.handler(validator, mount)
    board = memoryview(bytearray(8 * WIDTH)).cast("Q")
    server = Server(loop, http or Http(), lambda request: handler, board, None)
    try:
        asgi.start_up()
        talks = [_Talk(loop, server, data, client, Manner(**manner)) for data in sent]
        loop.spawn(_finish(loop, server, asgi), "finishing")
        asgi.run()
        for talk in talks:
            talk.close()
        assert not asgi.under_way
        assert not server.connections
    finally:
        asgi.close()
        loop.close()
    for talk in talks:
        if talk.failure is not None:
            raise talk.failure
    assert not validator.complaints
    return [bytes(talk.received) for talk in talks]


async def _finish(loop: Loop, server: Server, asgi: Asgi) -> None:
    with loop.within(PATIENCE):
        await server.fewer(1)
        await asgi.finished()
    await asgi.shut_down(PATIENCE)


def call(application: Application, *fields: str, **how: Any) -> Answer:
    """The answer of an application to `request(*fields, **how)`; the first positional argument is the target."""
    options = {key: how.pop(key) for key in ("mount", "http", "client", "poller", "lifespan") if key in how}
    return parse(meet(application, request(*fields, **how), **options)[0], how.get("method", "GET"))


async def answer(send: Callable[..., Awaitable[None]], body: bytes = b"", status: int = 200, *headers: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def whole_body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body
