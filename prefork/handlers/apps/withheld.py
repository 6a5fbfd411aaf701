"""Request fields that no application gets, by whichever interface. Owns their list.

- `Proxy` would be the variable HTTP_PROXY, which is a setting of many HTTP clients (CVE-2016-5385).
- A name with "_" would be the same variable as the name with "-", which a proxy may have checked. Adapters between
  ASGI and WSGI make variables, too.
"""

from __future__ import annotations

WITHHELD = frozenset(("proxy",))  # beside the names with "_"; lower case


def is_withheld(name: str) -> bool:
    """Whether applications do not get the field of this `name` (lower case)."""
    return "_" in name or name in WITHHELD
