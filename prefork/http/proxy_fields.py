"""The fields of a request that only a proxy may write. Owns the list.

These fields name the client, the way its request came, or the target that it asked for. Applications, frameworks and
their plug-ins believe them, or did when a proxy in front wrote them. A client that sends one itself forges it, so
forwarded.py drops it. Fields that a client may send (Via, X-Request-ID, X-HTTP-Method-Override) are not in the list.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefork.bounded import NameTable

FORWARDED = "forwarded"  # RFC 7239
PREFIXES = (
    # -For, -Proto, -Host, -Port, -Prefix (Werkzeug, Django, Starlette's and uvicorn's middlewares, Rails), -Ssl and
    # -Protocol (gunicorn), -Scheme, -Server, -By, -Uri, -Method; -User, -Email, -Groups (oauth2-proxy); -Client-Cert
    # (Envoy), -Tls-Client-Cert (Traefik)
    "x-forwarded-",
    "x-remote-",  # -User, -Group, -Extra- (Kubernetes), -Addr, -IP
    "x-auth-request-",  # oauth2-proxy, for nginx's auth_request
    "x-authentik-",
    "x-ssl-",  # the outcome of checking a client's certificate: recipes for HAProxy, nginx and Apache
    "ssl-client-",  # the same, by ingress-nginx
)
NAMES = frozenset(
    (
        FORWARDED,
        # the client's address: nginx's recipes, and fields that libraries such as django-ipware read in turn
        *("x-real-ip", "x-client-ip", "client-ip", "x-cluster-client-ip", "x-forwarded", "forwarded-for"),
        # the same, by content delivery networks and hosts; by Envoy and ingress-nginx
        *("true-client-ip", "cf-connecting-ip", "cf-connecting-ipv6", "fastly-client-ip", "fly-client-ip"),
        *("x-envoy-external-address", "x-original-forwarded-for"),
        # the scheme: Flask's and waitress' recipes, Microsoft's gateways, CloudFront
        *("x-scheme", "x-url-scheme", "front-end-https", "cloudfront-forwarded-proto"),
        # where the application is mounted: Flask's recipe, Radicale
        "x-script-name",
        # the target before it was rewritten (IIS), or the one whose permission is asked for (nginx's auth_request)
        *("x-original-url", "x-rewrite-url", "x-original-uri", "x-original-method", "x-original-host"),
        # the user who has logged in: Authelia and Django's RemoteUserMiddleware, Grafana's and Apache's recipes, clouds
        *("remote-user", "remote-name", "remote-email", "remote-groups"),
        *("x-webauth-user", "x-authenticated-user", "x-authenticated-userid"),
        *("x-goog-authenticated-user-email", "x-goog-authenticated-user-id", "cf-access-authenticated-user-email"),
        *("x-ms-client-principal", "x-ms-client-principal-id", "x-ms-client-principal-name"),
        *("tailscale-user-login", "tailscale-user-name"),
        # the certificate of that user: RFC 9440, and recipes
        *("client-cert", "client-cert-chain", "x-client-cert", "x-client-verify"),
        # the files that the proxy would send for the application: Rack's Sendfile believes these
        *("x-sendfile-type", "x-accel-mapping"),
    )
)


class ProxyFields(NameTable[bool]):
    """Name of a field (lower case) -> whether only a proxy may write it.

    `others` are names that count as such fields beside those of the list.
    """

    def __init__(self, others: Iterable[str] = ()) -> None:
        super().__init__(self._is_proxys)
        self._names = NAMES | frozenset(others)

    def _is_proxys(self, name: str) -> bool:
        alias = name.replace("_", "-")  # adapters between ASGI and WSGI make the same name of both
        return alias in self._names or alias.startswith(PREFIXES)


PROXY_FIELDS = ProxyFields()
