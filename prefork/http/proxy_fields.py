"""The fields of a request that only a proxy may write. Owns the list.

Applications, frameworks and their plug-ins believe these, or did while a proxy stood in front that wrote them: as to
who the client is, how it came and what it asked for. So of a client's own they would be forged, and forwarded.py drops
them. What a client itself may say (Via, X-Request-ID, X-HTTP-Method-Override) is not here.
"""

from __future__ import annotations

from collections.abc import Iterable

ENTRIES = 1024  # names that are remembered
NAME_LENGTH = 64  # characters of one

FORWARDED = "forwarded"  # RFC 7239
PREFIXES = (
    # -For, -Proto, -Host, -Port, -Prefix (Werkzeug, Django, Starlette's and uvicorn's middlewares, Rails), -Ssl and
    # -Protocol (gunicorn), -Scheme, -Server, -By, -Uri, -Method; -User, -Email, -Groups (oauth2-proxy); -Client-Cert
    # (Envoy), -Tls-Client-Cert (Traefik)
    "x-forwarded-",
    "x-remote-",  # -User, -Group, -Extra- (Kubernetes), -Addr, -IP
    "x-auth-request-",  # oauth2-proxy, for nginx's auth_request
    "x-authentik-",
    "x-ssl-",  # what became of a client's certificate: recipes for HAProxy, nginx and Apache
    "ssl-client-",  # likewise, of ingress-nginx
)
NAMES = frozenset(
    (
        FORWARDED,
        # the client's address: nginx's recipes, and what libraries such as django-ipware look at in turn
        *("x-real-ip", "x-client-ip", "client-ip", "x-cluster-client-ip", "x-forwarded", "forwarded-for"),
        # the same, by content delivery networks and hosts; by Envoy and ingress-nginx
        *("true-client-ip", "cf-connecting-ip", "cf-connecting-ipv6", "fastly-client-ip", "fly-client-ip"),
        *("x-envoy-external-address", "x-original-forwarded-for"),
        # the scheme: Flask's and waitress' recipes, Microsoft's gateways, CloudFront
        *("x-scheme", "x-url-scheme", "front-end-https", "cloudfront-forwarded-proto"),
        # where the application is mounted: Flask's recipe, Radicale
        "x-script-name",
        # what was asked for before it was rewritten (IIS), or is asked whether it may (nginx's auth_request)
        *("x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method", "x-original-host"),
        # who has logged in: Authelia and Django's RemoteUserMiddleware, Grafana's and Apache's recipes, clouds
        *("remote-user", "remote-name", "remote-email", "remote-groups"),
        *("x-webauth-user", "x-authenticated-user", "x-authenticated-userid"),
        *("x-goog-authenticated-user-email", "x-goog-authenticated-user-id", "cf-access-authenticated-user-email"),
        *("x-ms-client-principal", "x-ms-client-principal-id", "x-ms-client-principal-name"),
        *("tailscale-user-login", "tailscale-user-name"),
        # by which certificate: RFC 9440, and recipes
        *("client-cert", "client-cert-chain", "x-client-cert", "x-client-verify"),
        # which files the proxy would send for the application: Rack's Sendfile believes them
        *("x-sendfile-type", "x-accel-mapping"),
    )
)


class ProxyFields(dict[str, bool]):
    """The name of a field (lower case) -> whether only a proxy may write it, `others` included. Bounded."""

    def __init__(self, others: Iterable[str] = ()) -> None:
        self._names = NAMES | frozenset(others)

    def __missing__(self, name: str) -> bool:
        alias = name.replace("_", "-")  # adapters between ASGI and WSGI make one of both
        is_proxys = alias in self._names or alias.startswith(PREFIXES)
        if len(name) <= NAME_LENGTH:
            if len(self) >= ENTRIES:
                self.clear()
            self[name] = is_proxys
        return is_proxys


PROXY_FIELDS = ProxyFields()
