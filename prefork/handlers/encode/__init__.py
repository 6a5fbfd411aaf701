"""Content encodings (RFC 9110 §8.4): responses compressed on the fly, whichever handler made them."""
