"""The grammar that the config file shares with the protocol: tokens, field values, hosts. Owns no state.

All patterns are linear: quantifiers are possessive, or their classes do not overlap with what follows.
"""

from __future__ import annotations

import re

TCHAR = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 §5.6.2
VALUE = r"\t\x20-\x7e\x80-\xff"  # RFC 9110 §5.5: field-vchar, obs-text, SP, HTAB; no other controls

TOKEN = re.compile(rf"[{TCHAR}]++")
FIELD_VALUE = re.compile(rf"[{VALUE}]*+")

# RFC 3986 §3.2.2: a registered name (255 octets at most, RFC 1035 §2.3.4) or an IPv4 address; a bracketed IPv6 one
NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]{1,255}+"
BRACKETED = r"\[[0-9A-Fa-f:.]{2,45}+\]"

HOP_BY_HOP = frozenset(("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"))
"""The fields of one connection (RFC 9110 §7.6.1): the server sends them, an application must not."""
