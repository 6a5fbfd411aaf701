"""The grammar: the regular expressions and tables of HTTP/1 messages, each with its section. Owns no state.

The patterns that the config file shares with the protocol stand in settings/grammar.py; some are exported from here as
well. The patterns of single fields (Accept, Range, Forwarded, entity tags) stand in the modules that read these fields.

All patterns are linear: quantifiers are possessive, or their classes do not overlap with what follows.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from prefork.settings.grammar import BRACKETED, NAME, TCHAR, VALUE
from prefork.settings.grammar import FIELD_VALUE as FIELD_VALUE
from prefork.settings.grammar import HOP_BY_HOP as HOP_BY_HOP
from prefork.settings.grammar import TOKEN as TOKEN

# RFC 9112 §3: exactly one space between the parts; a method has at most 32 characters here
REQUEST_LINE = re.compile(rf"([{TCHAR}]{{1,32}}) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])")
LINE_START = re.compile(rf"[{TCHAR}]{{1,32}}(?: |\Z)".encode())  # the beginning of a request line that is not complete

# RFC 9112 §5, a field line without its CRLF: no space before the colon (§5.1), no line folding (§5.2)
FIELD_LINE = re.compile(rf"([{TCHAR}]++):[ \t]*+([{VALUE}]*+)".encode())
FIELD_LINE_CR = re.compile(FIELD_LINE.pattern + rb"\r")  # all that stands before the LF

HOST = re.compile(rf"(?:{NAME}|{BRACKETED})(?::[0-9]{{0,5}})?")  # RFC 9110 §7.2: with or without a port
ABSOLUTE_FORM = re.compile(r"https?://([^/?#]*+)(.*+)", re.IGNORECASE)  # RFC 9112 §3.2.2
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")  # RFC 3986 §2.1
DIGITS = re.compile(r"[0-9]{1,18}")  # RFC 9110 §8.6; 18 of them fit into 63 bits

# RFC 9112 §7.1, §7.1.1: white space may stand around ";" and "=", and nowhere else. It is "bad white space" (RFC 9110
# §5.6.3), which a recipient must skip. h11 does the opposite; llhttp, which is strict by default, refuses both.
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t\x20-\x7e\x80-\xff])*+"'  # RFC 9110 §5.6.4
_EXTENSION = rf"[ \t]*+;[ \t]*+[{TCHAR}]++(?:[ \t]*+=[ \t]*+(?:[{TCHAR}]++|{_QUOTED}))?+"
CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,15}}+)(?:{_EXTENSION})*+".encode("latin-1"))

# RFC 9110 §6.5.1: fields that frame or route a message, or that tell how to take its content, must come before it
NOT_IN_TRAILERS = HOP_BY_HOP | frozenset(
    (
        *("content-encoding", "content-length", "content-range", "content-type", "host", "trailer"),
        *("authorization", "proxy-authenticate", "proxy-authorization", "www-authenticate", "cookie", "set-cookie"),
        *("cache-control", "expect", "if-match", "if-modified-since", "if-none-match", "if-range"),
        *("if-unmodified-since", "max-forwards", "pragma", "range"),
        *("age", "date", "expires", "location", "retry-after", "vary", "warning"),
    )
)

REASONS = {status.value: status.phrase for status in HTTPStatus}
"""Status code -> reason phrase (RFC 9110 §15)."""
