"""A Django project that uses what Django has, by WSGI and by ASGI. Its files are in the directory it is started in."""
