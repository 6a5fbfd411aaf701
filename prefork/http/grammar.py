"""The grammar: every regular expression and table of the protocol, each with its section. Owns no state.

All patterns are linear: quantifiers are possessive, or their classes do not overlap with what follows.
"""

from __future__ import annotations

import re
from http import HTTPStatus

_TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 §5.6.2
_VALUE = r"\t\x20-\x7e\x80-\xff"  # RFC 9110 §5.5: field-vchar, obs-text, SP, HTAB; no other controls

TOKEN = re.compile(rf"[{_TCHAR}]++")

# RFC 9112 §3, with the one space between parts that it asks for; a method has at most 32 characters here
REQUEST_LINE = re.compile(rf"([{_TCHAR}]{{1,32}}) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])".encode())
LINE_START = re.compile(rf"[{_TCHAR}]{{1,32}}(?: |\Z)".encode())  # what an unfinished request line must look like

# RFC 9112 §5, a field line without its CRLF: no space before the colon (§5.1), no line folding (§5.2)
FIELD_LINE = re.compile(rf"([{_TCHAR}]++):[ \t]*+([{_VALUE}]*+)".encode())
FIELD_LINE_CR = re.compile(FIELD_LINE.pattern + rb"\r")  # what stands before a LF
FIELD_VALUE = re.compile(rf"[{_VALUE}]*+")

# RFC 3986 §3.2.2: a registered name (255 octets at most, RFC 1035 §2.3.4), an IPv4 address or a bracketed IPv6 one,
# with a port or without
HOST = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]{1,255}+|\[[0-9A-Fa-f:.]{2,45}+\])(?::[0-9]{0,5})?")
ABSOLUTE_FORM = re.compile(r"https?://([^/?#]*+)(.*+)", re.IGNORECASE)  # RFC 9112 §3.2.2
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")  # RFC 3986 §2.1
DIGITS = re.compile(r"[0-9]{1,18}")  # RFC 9110 §8.6; 18 of them fit into 63 bits

CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")  # RFC 9112 §7.1, §7.1.1

REASONS = {status.value: status.phrase for status in HTTPStatus}
"""Status code -> reason phrase (RFC 9110 §15)."""

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
"""What belongs to one connection (RFC 9110 §7.6.1): an application does not say it, the server does."""
