"""How an error shows a client's text. Owns no state."""

from __future__ import annotations

LENGTH = 60  # characters


def shown(text: str | bytes) -> str:
    """`text` quoted, and cut behind LENGTH characters."""
    return repr(text[:LENGTH]) + ("..." if len(text) > LENGTH else "")
