"""HTTP/1 in one worker. Owns the parser and the renderers, which all its connections share."""

from __future__ import annotations

from collections.abc import Callable

from prefork.http.h1.parse import Heads
from prefork.http.h1.render import DATE_INTERVAL, TO_PROXIES, Head, Renderer
from prefork.http.message import Client, RequestLine, Response
from prefork.http.proxy_fields import ProxyFields
from prefork.http.registry import Server

KEEPALIVE_RESERVE = 1.0  # seconds less that clients are told, as their requests take a while to arrive

Render = Callable[[Response, RequestLine, bool, float], Head]


class Http1:
    """The parser and the renderers for the HTTP/1 connections of one listener of `server`. Several listeners share
    their `heads`, but no answers: an answer may depend on the listener, and on its scheme. A response head is used for
    `interval` seconds.
    """

    def __init__(self, server: Server, heads: Heads | None = None, *, interval: float = DATE_INTERVAL) -> None:
        http = server.http
        self.server = server
        self.heads = heads or Heads(http.max_head, http.max_fields, ProxyFields(http.trusted_fields))
        self.whole = self.heads.whole  # bound once: 64 bytes less a connection
        name = "prefork" if http.server_header else ""
        idle = int(http.keepalive_timeout - KEEPALIVE_RESERVE)
        self.render = Renderer(name, TO_PROXIES, idle, interval).head
        self._render_to_proxies = Renderer(name, idle=idle, interval=interval).head

    def renderer(self, peer: Client) -> Render:
        """The renderer for responses to `peer`. Only a trusted proxy gets the fields that are meant for proxies."""
        return self._render_to_proxies if self.server.forwarding.trusts(peer.address) else self.render
