"""Content encodings (RFC 9110 §8.4): the responses of any handler are compressed on the fly."""
