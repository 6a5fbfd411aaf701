"""Read from the environment: DEBUG, with which there is no middleware of one kind only, and CONN_MAX_AGE, which is ""
for connections that stay.
"""

from __future__ import annotations

import os
from pathlib import Path

HOME = Path.cwd()
SECRET_KEY = "known to both workers"
DEBUG = "DEBUG" in os.environ
ALLOWED_HOSTS = ["127.0.0.1", ".test"]
ROOT_URLCONF = "tests.e2e.frameworks.django_site.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "tests.e2e.frameworks.django_site.middleware.both",
    *([] if DEBUG else ["tests.e2e.frameworks.django_site.middleware.only_sync"]),
    *([] if DEBUG else ["tests.e2e.frameworks.django_site.middleware.only_async"]),
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME / "db.sqlite3",
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": int(age) if (age := os.environ.get("CONN_MAX_AGE", "0")) else None,
        "OPTIONS": {"timeout": 10},
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the slow ones take a second each
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = HOME / "collected"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
