"""Whom a trusted proxy speaks for: X-Forwarded-For/-Proto, or Forwarded (RFC 7239) -> the client they tell of.

A proxy writes one of these families, and passes the other on as it came from its own client. So the operator says which
one counts, and the other is dropped from everybody's requests. Once a proxy is named, what others send of either is
dropped before anybody can believe it. While none is, the server looks at none of them, and the application may have a
middleware of its own that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from prefork.http.message import Client, Headers
from prefork.settings.schema import TrustedFields

X_FORWARDED = frozenset(("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"))
FORWARDED = frozenset(("forwarded",))
FIELDS = X_FORWARDED | FORWARDED
HOPS = 32  # proxies of ours that one request may have come through; the client is the outermost of them otherwise
HOP_LENGTH = 1024  # characters: what is longer tells nothing, and costs nothing

# RFC 7239 §4: pairs of a token and a token or a quoted string; addresses in brackets are quoted
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_PAIR = re.compile(rf'[ \t]*+({_TOKEN}++)=(?:"([^"\\]*+)"|((?:{_TOKEN}|[:\[\]])++))[ \t]*+(?:;|\Z)')
_ELEMENT = re.compile(r'(?:[^,"\\]++|"[^"\\]*+")*+')  # reads the same from both ends, as nothing is escaped in it
_NODE = re.compile(r"\[([0-9A-Fa-f:.]++)\](?::[0-9]++)?|([0-9.]++)(?::[0-9]++)?|([0-9A-Fa-f:.]++)")

# Traefik names the scheme of a WebSocket's handshake, which begins as a request of HTTP (RFC 6455 §3)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Forwarding:
    """`proxies` are those whose word counts: addresses, networks, "unix" for whoever comes through a unix socket;
    `fields` is the family that they write.
    """

    def __init__(self, proxies: Sequence[str], fields: TrustedFields = "x-forwarded") -> None:
        self._hops = _hops if fields == "forwarded" else _x_hops
        self._passed_on = X_FORWARDED if fields == "forwarded" else FORWARDED
        self._networks = [ip_network(proxy) for proxy in proxies if proxy != "unix"]
        self._unix = "unix" in proxies
        self.trusts = lru_cache(1024)(self._trusts)

    def judge(self, peer: Client, headers: Headers) -> tuple[Client, Headers]:
        """Who asks, and the fields that may be believed, when `peer` is at the other end of the connection."""
        if not self.trusts(peer.address):
            return peer, _strip(headers, FIELDS)
        headers = _strip(headers, self._passed_on)
        return self._client(peer, headers), headers

    def _trusts(self, address: str) -> bool:
        """True for a proxy of ours; `address` is "" on a unix socket."""
        if not address:
            return self._unix
        plain = canonical(address.partition("%")[0])
        return bool(plain) and any(ip_address(plain) in network for network in self._networks)

    def _client(self, proxy: Client, headers: Headers) -> Client:
        """The client that `proxy`, which is trusted, speaks for; `proxy` itself where it says nothing that can be read.

        Each proxy adds to the right, so the first from the right that is not ours is the client: what stands further
        left it has made up itself, perhaps. The scheme is the one in which that client came to a proxy of ours.
        """
        address, scheme = proxy.address, proxy.scheme
        for hop, told in self._hops(headers):
            scheme = _SCHEMES.get(told, scheme)
            if not hop:
                break
            address = hop
            if not self.trusts(hop):
                break
        if (address, scheme) == (proxy.address, proxy.scheme):
            return proxy
        port = int(proxy.port) if address == proxy.address else 0
        return Client(address, port, scheme, proxy.server_name, proxy.server_port)


def _strip(headers: Headers, fields: frozenset[str]) -> Headers:
    """`headers` without these fields, which nobody has written who may; remembered with them."""
    if fields.isdisjoint(headers.fields):
        return headers
    stripped: Headers | None = headers.views.get(fields)
    if stripped is None:
        stripped = headers.views[fields] = headers.without(fields)
    return stripped


def _x_hops(headers: Headers) -> Iterator[tuple[str, str]]:
    """(address, scheme) by X-Forwarded-For and -Proto, from the nearest hop outwards; "" for what is not told or not
    readable.
    """
    schemes = headers.get("x-forwarded-proto").rsplit(",", HOPS)[-HOPS:]
    addresses = headers.get("x-forwarded-for").rsplit(",", HOPS)[-HOPS:]
    for place, text in enumerate(reversed(addresses)):
        # one scheme is the whole chain's, several go with the hops that added them
        yield _address(text), schemes[-1 - place].strip().lower() if place < len(schemes) else ""


def _hops(headers: Headers) -> Iterator[tuple[str, str]]:
    """The same by Forwarded. It is read from its end, where our proxy has written: nothing that its client has begun,
    a quoted string without an end, say, reaches into that.
    """
    backwards, at = headers.get("forwarded")[::-1], 0
    for _ in range(HOPS):
        if at >= len(backwards):
            return
        match = _ELEMENT.match(backwards, at)
        assert match is not None  # it matches nothing, too
        is_whole = match.end() - at <= HOP_LENGTH and backwards[match.end() : match.end() + 1] in ("", ",")
        pairs = _pairs(match[0][::-1]) if is_whole else {}
        yield _address(pairs.get("for", "")), pairs.get("proto", "").lower()
        at = match.end() + 1


def _pairs(element: str) -> dict[str, str]:
    """The parameters of one element of Forwarded; none where any is malformed, or there twice."""
    pairs: dict[str, str] = {}
    at = 0
    while at < len(element):
        match = _PAIR.match(element, at)
        if match is None or match[1].lower() in pairs:
            return {}
        pairs[match[1].lower()] = match[2] or match[3] or ""
        at = match.end()
    return pairs


def _address(node: str) -> str:
    """The IP address of a node (RFC 7239 §6), without its port; "" for "unknown", a name, or nonsense."""
    match = _NODE.fullmatch(node.strip(" \t")) if len(node) <= HOP_LENGTH else None
    return canonical(match[1] or match[2] or match[3]) if match else ""


def canonical(address: str) -> str:
    """An IP address as text, one spelling each; "" for anything else. An IPv4-mapped IPv6 address, which is how a
    dual-stack socket shows its IPv4 clients, is the IPv4 one (RFC 4291 §2.5.5.2).
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
