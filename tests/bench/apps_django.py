"""The Django site on a database, with the same three pages as the Flask one. Connections persist, one a thread."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="bench",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["PGHOST"],
            "USER": os.environ["PGUSER"],
            "NAME": os.environ["PGDATABASE"],
            "CONN_MAX_AGE": None,
        }
    },
)
app = get_wsgi_application()


class Article(models.Model):
    title = models.TextField()
    body = models.TextField()

    class Meta:
        app_label = "bench"
        db_table = "article"


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello, world!\n")


def article(request: HttpRequest, number: int) -> HttpResponse:
    found = get_object_or_404(Article, pk=number)
    return JsonResponse({"id": found.pk, "title": found.title, "body": found.body})


def sleep(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(0.02)")
    return HttpResponse("Good morning!\n")


urlpatterns = [path("", plain), path("article/<int:number>", article), path("sleep", sleep)]
