"""The pages, apart from the admin's."""

from __future__ import annotations

import os
from collections.abc import Iterator

from django.contrib.auth.models import User
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse

PAGE = """<!doctype html>
<title>Django on prefork</title>
<h1>There are {users} users.</h1>
<p>Worker {worker} counted them. You may add some in the <a href="/admin/">admin</a>.</p>
<p>See also <a href="squares.csv">squares.csv</a>, made while it is sent, and the <a href="source">source</a>.</p>
"""


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE.format(users=User.objects.count(), worker=os.getpid()))


def squares(request: HttpRequest) -> StreamingHttpResponse:
    def rows() -> Iterator[str]:
        yield "number,square\n"
        for number in range(10_000):
            yield f"{number},{number * number}\n"

    return StreamingHttpResponse(rows(), content_type="text/csv")


def source(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"), content_type="text/plain")  # goes out by sendfile(2), and is closed


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError  # its traceback is in the log
