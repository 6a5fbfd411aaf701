"""What is where."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from project import views

urlpatterns = [
    path("", views.index),
    path("squares.csv", views.squares),
    path("source", views.source),
    path("broken", views.broken),
    path("admin/", admin.site.urls),
]
