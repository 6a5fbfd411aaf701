"""WSGI applications (PEP 3333), called inline by the leader, or delegated to another thread (runtime/threads.py).

Clients repeat header blocks and request lines. So the part of the environ that comes from a header block, and the part
that comes from a request line, are prepared once, and kept for as long as the block and the line are (parse.py). A
request copies the first part and adds the second.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from time import monotonic
from typing import IO, Any

from prefork import __version__
from prefork.bounded import NameTable
from prefork.errors import Abandoned, Disconnected, TimedOut
from prefork.handlers.apps.saturation import Saturation
from prefork.handlers.apps.withheld import is_withheld
from prefork.handlers.apps.wsgi.call import BOUNDS, Bounds, Call, contained, to_bytes
from prefork.handlers.apps.wsgi.delegated import Delegated
from prefork.handlers.apps.wsgi.file_wrapper import ErrorStream, FileWrapper
from prefork.handlers.apps.wsgi.wait_estimate import LONG, Estimate, Estimates, Meter
from prefork.handlers.apps.wsgi.write import Inline, Whole
from prefork.http.exchange import failed, release
from prefork.http.message import Headers, Request, RequestLine, Response, plain, server
from prefork.runtime import forks
from prefork.runtime.calls import Call as AtWork
from prefork.runtime.calls import Ending
from prefork.runtime.owner import Superseded
from prefork.runtime.threads import DELEGATED, ThreadPool
from prefork.runtime.watcher import TICK, Token

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class Wsgi:
    """Calls `application` for requests below `mount` ("" or "/prefix"), in the threads of `pool`; `handle` is the
    Handler.

    A call may take `timeout` seconds, and wait for a thread for `queue_timeout` seconds (0: any number). All
    applications of one pool share its `saturation`. The `estimates` tell which calls are handed to another thread
    beforehand. `bounds` are those of each call.
    """

    def __init__(
        self,
        application: Application,
        mount: str,
        pool: ThreadPool,
        *,
        multiprocess: bool,
        timeout: float = 0,
        queue_timeout: float = 0,
        saturation: Saturation | None = None,
        estimates: Estimates | None = None,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._application = application
        self._mount = mount
        self._pool = pool
        self._timeout = timeout
        self._queue_timeout = queue_timeout
        self._saturation = saturation or Saturation(pool)
        self._bounds = bounds
        self._inline = Inline(pool, timeout, bounds)
        self._pending = self._inline.pending
        self._estimates = estimates or Estimates()
        self._constant: Environ = {
            "SERVER_SOFTWARE": f"prefork/{__version__}",
            "wsgi.version": (1, 0),
            "wsgi.errors": ErrorStream(),
            "wsgi.multithread": pool.threads > 1,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,  # wsgi.input ends where the body does, so it may be read to its end
        }

    async def handle(self, request: Request) -> Response:
        """The Handler, on the hot path.

        Raises any exception of the application, ApplicationError where it breaks PEP 3333, ProtocolError and
        Disconnected as the request body does, Abandoned where the call took too long and was given up, and Superseded
        where another coroutine has the response (wsgi/write.py).
        """
        if self._pending and (pending := self._pending.pop(self._pool.loop.current, None)):
            return pending()  # see wsgi/write.py
        line, headers, client = request.line, request.headers, request.client
        environ: Environ | None = headers.prepared.get(self)
        if environ is not None:
            environ = environ.copy()
        else:
            environ = _fields(headers, self._constant)
            if headers.shared:
                headers.prepared[self] = environ.copy()
        view = line.prepared.get(self)
        if view is None:
            view = line.prepared[self] = self._line(line), self._estimates.find(line.method, line.path)
        from_line, estimate = view
        environ.update(from_line)
        environ["REMOTE_ADDR"] = client.address
        environ["REMOTE_PORT"] = client.port
        if client.direct:
            environ["SERVER_NAME"] = client.server_name
            environ["SERVER_PORT"] = client.server_port
        else:  # the server that the client addressed (PEP 3333), as there may be a proxy in front of this one
            environ["SERVER_NAME"], environ["SERVER_PORT"] = server(request.host, client.scheme)
        environ["wsgi.url_scheme"] = client.scheme
        call, has_body = Call(), request.body.size != 0
        environ["wsgi.input"] = call.input = await _body(request, environ) if has_body else io.BytesIO()
        pool = self._pool
        waits, meter = False, None
        if estimate.is_watched:
            waits = estimate.hands_over()
            meter = Meter() if estimate.measures else None
        if pool.pinned or pool.jobs or not pool.followers or (waits and pool.threads > 1):
            return await self._delegate(request, call, environ, estimate)
        call.request, call.opener, call.thread = request, self._inline, pool.leader
        began = monotonic()
        token = pool.enter(request, self._timeout, began)
        if waits:
            pool.counts[DELEGATED] += 1
            pool.step_down(counted=False)
        else:
            pool.inline += 1
        try:
            result = self._application(environ, call.start_response)
            if forks.forked:
                forks.leave()
            if type(result) is list and call.buffer is None and call.status:
                content = to_bytes(result[0]) if len(result) == 1 else b"".join(map(to_bytes, result))
                response: Response | None = Response(call.status, call.headers, content, call.reason)
                call.thread = 0
                if has_body:
                    call.close()
            else:
                response = call.conclude(result)
                if response is not None and call.thread and pool.leave(token):
                    pool.enter(Ending(request, Whole(self._pending, response)), self._timeout, monotonic())
                    if not call.finish(response.body):
                        self._take_back(call, token)
                        response = None
        except BaseException as error:
            if forks.forked:
                forks.leave(error)
            call.fail(error)
            held_up, is_measured = monotonic() - began if meter is None else meter.held_up(), meter is not None
            if not pool.leave(token):
                held_up, is_measured = min(held_up, TICK), True
                await self._rejoin_failed(call, error)
            estimate.note(held_up, is_measured)
            failure = contained(error)
            if failure is not error:
                raise failure from error
            raise
        if response is None:
            return await self._stream(call, pool.leave(token), partial(self._note, estimate, began, meter))
        held_up = monotonic() - began if meter is None else meter.held_up()
        if call.thread:  # another thread leads already: it must get the response before the application's iterator ends
            await pool.produce(AtWork(request, self._timeout), call.finish_behind, leads=False)
        elif not pool.leave(token):
            await self._rejoin(response)
            estimate.note(min(held_up, TICK), True)
        elif held_up > LONG or estimate.is_watched:
            estimate.note(held_up, meter is not None)
        return response

    def _note(self, estimate: Estimate, began: float, meter: Meter | None) -> None:
        """Tell the estimate of a call that is over, from any thread: the call may have lost the loop."""
        held_up = monotonic() - began if meter is None else meter.held_up()
        if held_up > LONG or meter is not None or estimate.is_watched:
            self._pool.call_soon(partial(estimate.note, held_up, meter is not None))

    def _take_back(self, call: Call, token: Token) -> None:
        """Give up the response that is complete, as `call` has a longer body. Raises ApplicationError where that
        response is already on its way.
        """
        if not self._pool.leave(token):
            raise call.excess()
        self._pool.enter(call.request, self._timeout, monotonic())

    async def _rejoin(self, response: Response) -> None:
        """Go on in the thread that leads now. Raises Abandoned where the call was given up, and Superseded where
        another coroutine has the response; the response is closed then.
        """
        try:
            await self._pool.rejoin()
        except BaseException:
            await release(response.body)
            raise

    async def _rejoin_failed(self, call: Call, error: BaseException) -> None:
        """Go on in the thread that leads now. Raises Abandoned where the call was given up, and Superseded where
        another coroutine has the response. The error is logged then, unless the response buffer raises it.
        """
        try:
            await self._pool.rejoin()
        except (Abandoned, Superseded):
            if call.buffer is None and not isinstance(error, Disconnected):
                failed(call.request, error)
            raise

    async def _stream(self, call: Call, leads: bool, over: Callable[[], None]) -> Response:
        """The response to an iterable that is not exhausted. This thread exhausts it, even if another leads meanwhile,
        and calls `over` at its end.

        A call that has used write() is done already, and another coroutine has its response: Superseded is raised, or
        Abandoned or Disconnected where no coroutine sends that response.
        """
        if call.buffer is not None:
            await self._pool.rejoin()
            raise Disconnected("a call has written for nobody")
        at_work = AtWork(call.request, self._timeout)
        buffer = self._bounds.buffer(self._pool, at_work)

        def work() -> None:
            call.produce(buffer)
            over()

        try:
            await self._pool.produce(at_work, work, leads=leads)
            return call.outcome(buffer)
        except BaseException:
            await buffer.aclose()
            raise

    async def _delegate(self, request: Request, call: Call, environ: Environ, estimate: Estimate) -> Response:
        """The response to a call in another thread; a 503 where no thread is free within `queue_timeout`."""
        pool, task = self._pool, self._pool.loop.current
        call.request = request
        call.opener = delegated = Delegated(pool, call, self._timeout, estimate, self._bounds)
        if self._queue_timeout and pool.is_full:
            task.deadline = monotonic() + self._queue_timeout
        try:
            await delegated.make(partial(self._application, environ, call.start_response))
        except TimedOut:
            if not pool.is_leaving:
                self._saturation.turned_away(self._queue_timeout)
            return plain(503, ("Retry-After", "1"))
        finally:
            task.deadline = inf
        return delegated.response()

    def _line(self, line: RequestLine) -> Environ:
        environ: Environ = {
            "REQUEST_METHOD": line.method,
            "SCRIPT_NAME": self._mount,
            "PATH_INFO": line.below(self._mount),
            "QUERY_STRING": line.query,
            "SERVER_PROTOCOL": line.version,
            "REQUEST_URI": line.target,
            "RAW_URI": line.target,
        }
        if line.authority:
            environ["HTTP_HOST"] = line.authority
        return environ


async def _body(request: Request, environ: Environ) -> IO[bytes]:
    body = await request.body.spool()
    # A spooled chunked body is complete, so its length is known. Django reads no body without CONTENT_LENGTH.
    if request.body.size is None and body.seekable():
        environ["CONTENT_LENGTH"] = str(body.seek(0, os.SEEK_END))
        body.seek(0)
    return body


def _fields(headers: Headers, constant: Environ) -> Environ:
    """`constant`, and the request fields as CGI variables (RFC 3875 §4.1.18)."""
    environ = constant.copy()
    for name, value in headers.fields.items():
        environ[_VARIABLES[name]] = value
    if "" in environ:
        del environ[""]
    return environ


def _variable(name: str) -> str:
    """The CGI variable of a field; "" for a field that is withheld. Transfer-Encoding is, too: the body is decoded."""
    if is_withheld(name) or name == "transfer-encoding":
        return ""
    variable = name.upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"


_VARIABLES = NameTable(_variable)
