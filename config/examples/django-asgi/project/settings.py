"""The settings. See https://docs.djangoproject.com/en/stable/ref/settings/ for all there are.

With a database, leave CONN_MAX_AGE at 0, as Django's documentation says: under ASGI requests change their threads.
"""

from __future__ import annotations

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "not a secret: this is an example")
ALLOWED_HOSTS = [".localhost", "127.0.0.1", "[::1]"]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

# All of these are async as well: one that is not would have every request wait for a thread.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]

USE_TZ = True

# To stderr, which is where prefork logs as well. Without this, Django tells nobody of an error unless DEBUG is on.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
