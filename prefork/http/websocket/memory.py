"""Memory that the WebSockets of a worker use together. Owns the count of bytes held for clients, and its bound.

A WebSocket holds messages that are not whole yet, or that the application has not taken.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Protocol

from prefork.logger import log
from prefork.settings.schema import Websocket
from prefork.settings.wording import counted

WARNING_INTERVAL = 60.0  # seconds between two warnings
SMALL = 4096  # bytes that a connection may hold without being counted, so that small messages cost nothing here


class Holder(Protocol):
    def shed(self) -> None:
        """Drop the messages that are held, and close."""


class Memory:
    """Counts the bytes that each WebSocket holds. Beyond the bound, those that hold the most are shed."""

    def __init__(self, settings: Websocket) -> None:
        self._limit = max(settings.max_buffered, 2 * settings.max_message)  # one may hold two copies of a message
        self._held: dict[Holder, int] = {}
        self._total = 0
        self._shed = 0  # since the last warning
        self._told = -inf  # monotonic seconds

    def note(self, holder: Holder, size: int) -> None:
        """Note that `holder` holds `size` bytes now."""
        size = size if size > SMALL else 0
        before = self._held.get(holder, 0)
        if size == before:
            return
        self._total += size - before
        if size:
            self._held[holder] = size
        else:
            del self._held[holder]
        while self._total > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            self._total -= self._held.pop(largest)
            self._shed += 1
            largest.shed()
        if self._shed and monotonic() >= self._told + WARNING_INTERVAL:
            what = "%s closed: incomplete and unreceived messages took more than websocket.max_buffered"
            log.warning(what, counted(self._shed, "WebSocket"))
            self._shed, self._told = 0, monotonic()
