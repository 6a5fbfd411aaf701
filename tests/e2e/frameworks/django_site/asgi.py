"""Django as an ASGI application; `checked` holds the server against the specification."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from tests.e2e.asgi_validator import Validator

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.frameworks.django_site.settings")
application = get_asgi_application()
checked = Validator(application)
