"""The demo that the default configuration serves: a welcome page (static) and a small WSGI application (app).

It shows a newcomer that several workers answer. Delete the two routes when you have something of your own.
"""
