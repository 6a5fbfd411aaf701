"""prefork: the nginx process model for Python."""

__version__ = "0.1.0"
