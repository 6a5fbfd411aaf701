"""A Django project that fits on a page."""
