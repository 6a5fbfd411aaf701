"""The views. Those that are called in two ways stream as their caller can take it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.core.handlers.asgi import ASGIRequest
from django.db import connection, transaction
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

PATIENCE = 10.0  # seconds that a view waits for another request
PARTIES = 3

barrier = threading.Barrier(PARTIES)
gates: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
closings: set[str] = set()
met: list[asyncio.Event] = []


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(request.session["visits"])


@csrf_exempt
def upload(request: HttpRequest) -> JsonResponse:
    told = {}
    for name, file in request.FILES.items():
        digest = hashlib.sha256()
        for chunk in file.chunks():
            digest.update(chunk)
        told[name] = [file.name, file.size, digest.hexdigest(), type(file).__name__]
    return JsonResponse({"files": told, "form": request.POST.dict()})


def protected(request: HttpRequest) -> HttpResponse:
    return HttpResponse(type(request).__name__)


def cached(request: HttpRequest) -> HttpResponse:
    return HttpResponse(uuid.uuid4().hex)


def remember(request: HttpRequest) -> HttpResponse:
    return HttpResponse(cache.get_or_set("remembered", lambda: uuid.uuid4().hex))


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"), content_type="text/plain")


def stream(request: HttpRequest, gate: str) -> StreamingHttpResponse:
    """Four lines, each only when the gate has been opened once more."""

    def lines() -> Iterator[str]:
        try:
            for number in range(4):
                yield f"line {number}\n"
                gates[gate].acquire(timeout=PATIENCE)
        finally:
            closings.add(gate)

    async def lines_async() -> AsyncIterator[str]:
        try:
            for number in range(4):
                yield f"line {number}\n"
                while not gates[gate].acquire(blocking=False):
                    await asyncio.sleep(0.005)
        finally:
            closings.add(gate)

    return StreamingHttpResponse(lines_async() if isinstance(request, ASGIRequest) else lines())


def users(request: HttpRequest) -> StreamingHttpResponse:
    """Out of the database while it is sent: sqlite refuses a connection to any thread but the one that made it."""

    def names() -> Iterator[str]:
        for user in User.objects.order_by("pk").iterator(chunk_size=1):
            time.sleep(0.02)  # the loop goes on in another thread meanwhile
            yield f"{user.username}\n"

    async def names_async() -> AsyncIterator[str]:
        async for user in User.objects.order_by("pk").aiterator(chunk_size=1):
            yield f"{user.username}\n"

    return StreamingHttpResponse(names_async() if isinstance(request, ASGIRequest) else names())


@csrf_exempt
def open_gate(request: HttpRequest, gate: str) -> HttpResponse:
    gates[gate].release()
    return HttpResponse("open")


def closed(request: HttpRequest, gate: str) -> HttpResponse:
    return HttpResponse(gate in closings)


@csrf_exempt
def group(request: HttpRequest, name: str) -> HttpResponse:
    """POST makes it, and breaks where that is asked for; GET tells whether it is there."""
    if request.method == "POST":
        Group.objects.create(name=name)
        if "break" in request.GET:
            raise LookupError(f"after {name} was made")
    return HttpResponse(Group.objects.filter(name=name).exists())


def connected(request: HttpRequest) -> JsonResponse:
    """Wait until others are in here, in threads of their own, then use the thread's connection to the database."""
    barrier.wait(PATIENCE)
    count = User.objects.count()
    return JsonResponse({"users": count, "thread": threading.get_ident(), "connection": id(connection.connection)})


def meet(request: HttpRequest) -> HttpResponse:
    barrier.wait(PATIENCE)
    return HttpResponse(threading.get_ident())


@transaction.non_atomic_requests
async def meet_async(request: HttpRequest) -> HttpResponse:
    event = asyncio.Event()
    met.append(event)
    if len(met) == PARTIES:
        for each in met:
            each.set()
        met.clear()
    await asyncio.wait_for(event.wait(), PATIENCE)
    await asyncio.sleep(0.001)
    return HttpResponse(threading.get_ident())


@transaction.non_atomic_requests
async def nap(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0.001)
    return HttpResponse("awake")


def wait(request: HttpRequest) -> HttpResponse:
    """Until the client removes the file, by which it has seen that this has begun."""
    Path(request.GET["file"]).touch()
    while Path(request.GET["file"]).exists():
        time.sleep(0.005)
    return HttpResponse(os.getpid())


@transaction.non_atomic_requests
async def wait_async(request: HttpRequest) -> HttpResponse:
    path = Path(request.GET["file"])
    path.touch()
    try:
        while path.exists():
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        path.with_suffix(".cancelled").touch()
        raise
    return HttpResponse(os.getpid())


def crash(request: HttpRequest) -> HttpResponse:
    secret = "a local variable"
    raise LookupError(f"crash, {len(secret)}")
