"""The pages: each waits, and holds nobody up."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from datetime import datetime

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

PAGE = """<!doctype html>
<title>Django on prefork</title>
<h1>Two pauses of {seconds} s took {together:.2f} s.</h1>
<p>Worker {worker} made them at the same time. The <a href="clock">clock</a> ticks until you leave it;
a <a href="sync">sync view</a> is called in a thread.</p>
"""
PAUSE = 0.1  # seconds


async def index(request: HttpRequest) -> HttpResponse:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(asyncio.sleep(PAUSE), asyncio.sleep(PAUSE))
    return HttpResponse(PAGE.format(seconds=PAUSE, together=loop.time() - started, worker=os.getpid()))


async def clock(request: HttpRequest) -> StreamingHttpResponse:
    async def ticks() -> AsyncIterator[str]:
        while True:  # until the client hangs up, upon which Django cancels this
            yield f"{datetime.now():%H:%M:%S}\n"
            await asyncio.sleep(1)

    return StreamingHttpResponse(ticks(), content_type="text/plain")


def sync(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"called in {threading.current_thread().name}", content_type="text/plain")
