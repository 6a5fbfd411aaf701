"""What is where."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.decorators.cache import cache_page

from tests.e2e.frameworks.django_site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("visits", views.visits),
    path("upload", views.upload),
    path("protected", views.protected),
    path("cached", cache_page(60)(views.cached)),
    path("remember", views.remember),
    path("file", views.file),
    path("stream/<str:gate>", views.stream),
    path("users", views.users),
    path("open/<str:gate>", views.open_gate),
    path("closed/<str:gate>", views.closed),
    path("group/<str:name>", views.group),
    path("connection", views.connected),
    path("meet/sync", views.meet),
    path("meet/async", views.meet_async),
    path("nap", views.nap),
    path("wait/sync", views.wait),
    path("wait/async", views.wait_async),
    path("crash", views.crash),
]
