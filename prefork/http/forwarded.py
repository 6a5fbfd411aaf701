"""Whom a trusted proxy speaks for: Forwarded (RFC 7239) and X-Forwarded-For/-Proto -> the client they tell of.

Once a proxy is named, what others send of these fields is dropped before anybody can believe it. While none is, the
server looks at none of them, and the application may have a middleware of its own that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from prefork.http.message import Client, Headers

FIELDS = frozenset(("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"))

# RFC 7239 §4: pairs of a token and a token or a quoted string; addresses in brackets are quoted
_PAIR = re.compile(r'[ \t]*([A-Za-z]++)=(?:"([^"\\]*+)"|([!#$%&\'*+\-.^_`|~0-9A-Za-z:\[\]]++))[ \t]*(?:;|\Z)')
_NODE = re.compile(r"\[([0-9A-Fa-f:.]++)\](?::[0-9]++)?|([0-9.]++)(?::[0-9]++)?|([0-9A-Fa-f:.]++)")


class Forwarding:
    """`proxies` are those whose word counts: addresses, networks, "unix" for whoever comes through a unix socket."""

    def __init__(self, proxies: Sequence[str]) -> None:
        self._networks = [ip_network(proxy) for proxy in proxies if proxy != "unix"]
        self._unix = "unix" in proxies
        self.trusts = lru_cache(1024)(self._trusts)

    def judge(self, peer: Client, headers: Headers) -> tuple[Client, Headers]:
        """Who asks, and the fields that may be believed, when `peer` is at the other end of the connection."""
        if self.trusts(peer.address):
            return self._client(peer, headers), headers
        return peer, _strip(headers)

    def _trusts(self, address: str) -> bool:
        """True for a proxy of ours; `address` is "" on a unix socket."""
        if not address:
            return self._unix
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def _client(self, proxy: Client, headers: Headers) -> Client:
        """The client that `proxy`, which is trusted, speaks for; `proxy` itself where it says nothing that can be read.

        Each proxy adds to the right, so the first from the right that is not ours is the client: what stands further
        left it has made up itself, perhaps. The scheme is the one in which that client came to a proxy of ours.
        """
        address, scheme = proxy.address, proxy.scheme
        for hop, told in _hops(headers):
            if told in ("http", "https"):
                scheme = told
            if not hop:
                break
            address = hop
            if not self.trusts(hop):
                break
        if (address, scheme) == (proxy.address, proxy.scheme):
            return proxy
        port = int(proxy.port) if address == proxy.address else 0
        return Client(address, port, scheme, proxy.server_name, proxy.server_port)


def _strip(headers: Headers) -> Headers:
    """`headers` without what only a trusted proxy may say; remembered with them."""
    if FIELDS.isdisjoint(headers.fields):
        return headers
    stripped: Headers | None = headers.views.get(FIELDS)
    if stripped is None:
        stripped = headers.views[FIELDS] = headers.without(FIELDS)
    return stripped


def _hops(headers: Headers) -> Iterator[tuple[str, str]]:
    """(address, scheme) from the nearest hop outwards; "" for what is not told or not readable."""
    if "forwarded" in headers:
        for element in reversed(headers.get("forwarded").split(",")):
            pairs = {match[1].lower(): match[2] or match[3] or "" for match in _PAIR.finditer(element)}
            yield _address(pairs.get("for", "")), pairs.get("proto", "").lower()
        return
    schemes = [scheme.strip().lower() for scheme in headers.get("x-forwarded-proto").split(",")]
    addresses = headers.get("x-forwarded-for").split(",") if "x-forwarded-for" in headers else [""]
    for place, text in enumerate(reversed(addresses)):
        # one scheme is the whole chain's, several go with the hops that added them
        yield _address(text.strip()), schemes[-1 - place] if place < len(schemes) else ""


def _address(node: str) -> str:
    """The IP address of a node (RFC 7239 §6), without its port; "" for "unknown", a name, or nonsense."""
    match = _NODE.fullmatch(node)
    if match is None:
        return ""
    try:
        return str(ip_address(match[1] or match[2] or match[3]))
    except ValueError:
        return ""
