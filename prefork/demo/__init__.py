"""What the default configuration serves: a welcome page (static) and a small WSGI application (app).

A newcomer sees that several workers answer. Delete the two routes when you have something of your own.
"""
