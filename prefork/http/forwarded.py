"""Forwarded requests: X-Forwarded-For/-Proto, or Forwarded (RFC 7239) -> the client that a trusted proxy speaks for.

Owns the trust in proxies. The fields that only a proxy may write (proxy_fields.py) are dropped from all other requests
before an application can believe them. A trusted proxy writes some of these fields, and passes the others on as they
came from its own client. So the operator names the fields that it writes, and the others are dropped from its requests
as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from prefork.http.message import Client, Headers
from prefork.http.proxy_fields import FORWARDED
from prefork.logger import log

ENTRIES = 1024  # of each cache
ENTRY_LENGTH = 256  # characters: longer values are read each time
LEFT_OUT = 16  # dropped fields that the log names, once each: a client can make up any number of X-Forwarded-*
NAME_LENGTH = 64  # characters of a field's name: the log names no longer ones
HOPS = 32  # hops that are read: where all of them are proxies of ours, the outermost one is taken for the client
HOP_LENGTH = 1024  # characters: a longer hop counts as unreadable, and costs no reading

# RFC 7239 §4: pairs of a token and a token or a quoted string; addresses in brackets are quoted
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_PAIR = re.compile(rf'[ \t]*+({_TOKEN}++)=(?:"([^"\\]*+)"|((?:{_TOKEN}|[:\[\]])++))[ \t]*+(?:;|\Z)')
_ELEMENT = re.compile(r'(?:[^,"\\]++|"[^"\\]*+")*+')  # matches the same text backwards, as it has no escapes
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_NODE = re.compile(r"\[([0-9A-Fa-f:.]++)\](?::[0-9]++)?|([0-9.]++)(?::[0-9]++)?|([0-9A-Fa-f:.]++)")

# Traefik tells ws and wss for the handshake of a WebSocket, which begins as an HTTP request (RFC 6455 §3)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_MAPPED = 96  # bits before the IPv4 address (RFC 4291 §2.5.5.2)

Hops = Callable[[str, str], Iterator[tuple[str, str]]]


class Forwarding:
    """`proxies` are the trusted ones: addresses, networks, and "unix" for every peer on a unix socket.

    `fields` are those that they write (lower case): Forwarded, or X-Forwarded-For and -Proto, and any others.
    """

    def __init__(self, proxies: Sequence[str], fields: Sequence[str]) -> None:
        self._written = frozenset(fields)
        self._is_standard = FORWARDED in self._written
        self._hops: Hops = _hops if self._is_standard else _x_hops
        sources = (FORWARDED, "") if self._is_standard else ("x-forwarded-for", "x-forwarded-proto")
        self._sources = [name if name in self._written else "" for name in sources]  # "": no field has that name
        self._networks = [_network(proxy) for proxy in proxies if proxy != "unix"]
        self._ipv4 = [  # as numbers: `in` takes 5 us, and nearly every request of a busy proxy tells of another client
            (int(network.network_address), int(network.netmask)) for network in self._networks if network.version == 4
        ]
        self._unix = "unix" in proxies
        self._left_out: set[str] = set()
        self.trusts = lru_cache(ENTRIES)(self._trusts)
        self._known = lru_cache(ENTRIES)(self._read)

    def judge(self, peer: Client, headers: Headers) -> tuple[Client, Headers]:
        """The client of a request, and the fields of it that may be believed.

        `peer` is the other end of the connection. The request has fields that only a proxy may write.
        """
        if not self.trusts(peer.address):
            return peer, _strip(headers, headers.proxy_fields)
        client = self._client(peer, headers)
        passed_on = headers.proxy_fields - self._written
        if passed_on and "x-real-ip" in passed_on and _agrees(headers.get("x-real-ip"), client):
            passed_on -= {"x-real-ip"}
        if passed_on:
            self._explain(peer, passed_on)
            headers = _strip(headers, passed_on)
        return client, headers

    def _trusts(self, address: str) -> bool:
        """True for a proxy of ours; `address` is "" on a unix socket."""
        if not address:
            return self._unix
        plain = canonical(address.partition("%")[0])
        if not plain:
            return False
        if ":" in plain:
            return any(ip_address(plain) in network for network in self._networks)
        number = int.from_bytes(bytes(map(int, plain.split("."))), "big")
        return any(number & mask == network for network, mask in self._ipv4)

    def _client(self, proxy: Client, headers: Headers) -> Client:
        """The client that the trusted `proxy` speaks for; `proxy` itself where its fields tell nothing readable."""
        fields = headers.fields
        first, second = fields.get(self._sources[0], ""), fields.get(self._sources[1], "")
        if self._is_standard or "," in first or "," in second:
            read = self._known if len(first) + len(second) <= ENTRY_LENGTH else self._read
            address, scheme = read(first, second)
        else:  # a single hop of X-Forwarded-For, which is often new: looking it up would cost 0.7 us
            address, scheme = _address(first), _SCHEMES.get(second) or _SCHEMES.get(second.strip(" \t").lower(), "")
        if not address and not scheme:
            return proxy
        port = 0 if address else int(proxy.port)
        address, scheme = address or proxy.address, scheme or proxy.scheme
        return Client(address, port, scheme, proxy.server_name, proxy.server_port, False)

    def _read(self, first: str, second: str) -> tuple[str, str]:
        """The client's address and scheme, as the fields `first` and `second` tell them; "" for one that is not told.

        Each proxy adds its peer at the right. So the first address from the right that is not a proxy of ours is the
        client, which may have made up all that stands further left. The scheme is the one in which that client came to
        a proxy of ours.
        """
        address = scheme = ""
        for hop, told in self._hops(first, second):
            scheme = _SCHEMES.get(told, scheme)
            if not hop:
                break
            address = hop
            if not self.trusts(hop):
                break
        return address, scheme

    def _explain(self, proxy: Client, names: frozenset[str]) -> None:
        """Log each dropped field once, so that the operator may name it; LEFT_OUT of them at most."""
        room = LEFT_OUT - len(self._left_out)
        new = sorted(name for name in names - self._left_out if len(name) <= NAME_LENGTH)[:room]
        if new:
            self._left_out.update(new)
            where, fields = proxy.address or "a unix socket", ", ".join(new)
            log.info("the proxy at %s passes on %s; dropped, as http.trusted_fields does not name them", where, fields)


def _network(proxy: str) -> IPv4Network | IPv6Network:
    """An address or a network. One of IPv4-mapped IPv6 addresses becomes IPv4, as addresses do in `canonical`."""
    network = ip_network(proxy)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED))


def _agrees(real_ip: str, client: Client) -> bool:
    """True where X-Real-IP names the same client as the other fields: then it does not matter who wrote it."""
    return bool(client.address) and (real_ip == client.address or canonical(real_ip) == client.address)


def _strip(headers: Headers, fields: frozenset[str]) -> Headers:
    """`headers` without these `fields`, whose writer may not be believed. The copy is remembered in `headers`."""
    stripped: Headers | None = headers.prepared.get(fields)
    if stripped is None:
        stripped = headers.prepared[fields] = headers.without(fields)
    return stripped


def _x_hops(addresses: str, schemes: str) -> Iterator[tuple[str, str]]:
    """(address, scheme) of each hop by X-Forwarded-For and -Proto, from the nearest hop outwards.

    "" stands for one that is not told, or not readable.
    """
    told = schemes.rsplit(",", HOPS)[-HOPS:]
    for text in reversed(addresses.rsplit(",", HOPS)[-HOPS:]):
        # a single scheme is that of the whole chain; several belong to the hops that added them
        yield _address(text), told.pop().strip(" \t").lower() if told else ""


def _hops(forwarded: str, _: str) -> Iterator[tuple[str, str]]:
    """The same by Forwarded, which is read backwards from its end, where our proxy has written.

    So text of the proxy's client, such as a quoted string that is not closed, cannot reach into the proxy's own.
    """
    backwards, at = forwarded[::-1], 0
    for _hop in range(HOPS):
        if at >= len(backwards):
            return
        match = _ELEMENT.match(backwards, at)
        assert match is not None  # it matches the empty string, too
        is_whole = match.end() - at <= HOP_LENGTH and backwards[match.end() : match.end() + 1] in ("", ",")
        pairs = _pairs(match[0][::-1]) if is_whole else {}
        yield _address(pairs.get("for", "")), pairs.get("proto", "").lower()
        at = match.end() + 1


def _pairs(element: str) -> dict[str, str]:
    """The parameters of one element of Forwarded; none where one of them is malformed or repeated."""
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
    node = node.strip(" \t")
    if _IPV4.fullmatch(node):
        return node
    match = _NODE.fullmatch(node) if len(node) <= HOP_LENGTH else None
    return canonical(match[1] or match[2] or match[3]) if match else ""


def canonical(address: str) -> str:
    """The one spelling of an IP address; "" for any other text.

    An IPv4-mapped IPv6 address becomes the IPv4 one (RFC 4291 §2.5.5.2): a dual-stack socket shows its IPv4 clients
    like that.
    """
    if _IPV4.fullmatch(address):  # 4 us less
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
