"""Routing: which handler a host and a path lead to, and what is remembered of it."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import BadRequest
from prefork.handlers.router import VIEWS, Router, not_found, whole_server
from prefork.http.h1.body import Nothing
from prefork.http.h1.parse import Heads
from prefork.http.message import Client, Handler, Request, Response
from tests.handlers.exchange import exchange, parse, request
from tests.spellings import OPEN, PRIVATE

CLIENT = Client("192.0.2.7", 50000, "http", "127.0.0.1", "8000")


def handler(name: str) -> Handler:
    async def handle(request: Request) -> Response:
        return Response(200, (), name.encode())

    handle.__name__ = name
    return handle


def asked(target: str, host: str | None = "example.com", heads: Heads | None = None, method: str = "GET") -> Request:
    """A request as it comes out of the parser; `host` None is an HTTP/1.0 request without one."""
    head = f"{method} {target} HTTP/1.0\r\n" if host is None else f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n"
    raw = head.encode("latin-1") + b"\r\n"
    line, headers, _ = (heads or Heads(65536, 100)).parse(raw, len(raw) - 4)
    return Request(line, headers, Nothing(None), CLIENT)  # of which no stream is asked


def found(routes: list[tuple[str, str]], target: str, host: str | None = "example.com") -> str:
    """The route that `target` of `host` leads to, written as it is in `routes`: "host path", or "" for none."""
    router = Router([(at, path, handler(f"{at} {path}")) for at, path in routes])
    request = asked(target, host)
    first = router.find(request)
    assert router.find(request) is first  # from what is remembered, as well
    return "" if first is not_found else first.__name__


def paths(*prefixes: str) -> list[tuple[str, str]]:
    return [("", prefix) for prefix in prefixes]


# --- paths ---


@pytest.mark.parametrize("prefix", ["/app", "/app/"])
@pytest.mark.parametrize(
    "target", ["/app", "/app/", "/app/x", "/app//", "/app?q", "/app/x/y.z", "/%61pp", "/./app", "//app"]
)
def test_a_prefix_matches_itself_and_what_is_below(prefix: str, target: str) -> None:
    assert found(paths(prefix), target)


@pytest.mark.parametrize("prefix", ["/app", "/app/"])
@pytest.mark.parametrize("target", ["/", "/apple", "/ap", "/App", "/x/app", "/app;x", "/app.", "/app/.."])
def test_a_prefix_matches_whole_segments_only(prefix: str, target: str) -> None:
    assert found(paths(prefix), target) == ""


@pytest.mark.parametrize("target", ["/", "/x", "//", "/a/b?c", "/%FF", "http://example.com", "http://example.com/x"])
def test_the_root_matches_everything(target: str) -> None:
    assert found(paths("/"), target) == " /"


@pytest.mark.parametrize(
    ("target", "prefix"),
    [
        ("/a/b/c", " /a/b/c/"),
        ("/a/b/c/d", " /a/b/c/"),
        ("/a/b", " /a/b"),
        ("/a/b/cc", " /a/b"),
        ("/a/bb", " /a"),
        ("/aa", " /"),
    ],
)
def test_the_longest_prefix_wins_whatever_the_order(target: str, prefix: str) -> None:
    routes = paths("/a", "/a/b/c/", "/", "/a/b")
    assert found(routes, target) == found(routes[::-1], target) == prefix


def test_a_prefix_is_held_against_the_decoded_path() -> None:
    cafe = "/café".encode().decode("latin-1")
    assert found(paths(cafe), "/caf%C3%A9/x") == f" {cafe}"
    assert found(paths("/a b"), "/a%20b") == " /a b"


@pytest.mark.parametrize(("targets", "route"), [(PRIVATE, "private"), (OPEN, "/")], ids=["private", "open"])
def test_a_route_is_found_by_the_one_spelling_of_a_path(targets: list[str], route: str) -> None:
    routes = paths("/", "/private", "/static/private")
    for target in targets:
        assert found(routes, target, "a").endswith(route), target


def test_no_routes_is_404() -> None:
    assert Router([]).find(asked("/")) is not_found


# --- hosts ---

HOSTS = [
    ("", "/"),
    ("", "/any"),
    ("example.com", "/"),
    ("*.example.com", "/"),
    ("www.example.com", "/"),
    ("*.www.example.com", "/"),
    ("*.example.com", "/deep/er"),
    ("www.example.com", "/deep"),
    ("[::1]", "/"),
    ("127.0.0.1", "/"),
]


@pytest.mark.parametrize(
    ("host", "target", "route"),
    [
        ("example.com", "/x", "example.com /"),
        ("example.com:8000", "/x", "example.com /"),
        ("EXAMPLE.Com:8000", "/x", "example.com /"),
        ("example.com.", "/x", "example.com /"),
        ("example.com.:80", "/x", "example.com /"),
        ("example.com:", "/x", "example.com /"),
        ("www.example.com", "/x", "www.example.com /"),
        ("api.example.com", "/x", "*.example.com /"),
        ("a.b.example.com", "/x", "*.example.com /"),
        ("a.www.example.com", "/x", "*.www.example.com /"),
        ("a.b.www.example.com:1", "/x", "*.www.example.com /"),
        ("badexample.com", "/x", " /"),
        ("example.com.evil.org", "/x", " /"),
        ("com", "/x", " /"),
        ("[::1]", "/x", "[::1] /"),
        ("[::1]:8000", "/x", "[::1] /"),
        ("[::2]:8000", "/x", " /"),
        ("127.0.0.1:8000", "/x", "127.0.0.1 /"),
        (None, "/any", " /any"),
        # a more specific host wins over a longer path
        ("www.example.com", "/deep/er", "www.example.com /deep"),
        ("api.example.com", "/deep/er", "*.example.com /deep/er"),
        ("example.com", "/any", "example.com /"),
    ],
)
def test_the_most_specific_host_wins(host: str | None, target: str, route: str) -> None:
    assert found(HOSTS, target, host) == found(HOSTS[::-1], target, host) == route


def test_a_host_without_a_matching_path_gives_way_to_the_less_specific() -> None:
    routes = [("www.example.com", "/app"), ("*.example.com", "/static"), ("", "/any")]
    assert found(routes, "/app/x", "www.example.com") == "www.example.com /app"
    assert found(routes, "/static/x", "www.example.com") == "*.example.com /static"
    assert found(routes, "/any", "www.example.com") == " /any"
    assert found(routes, "/other", "www.example.com") == ""
    assert found(routes, "/app", "other.org") == ""


def test_the_authority_of_an_absolute_target_counts_and_not_host() -> None:
    assert found(HOSTS, "http://www.example.com:81/x", "example.com") == "www.example.com /"


def test_a_host_that_is_not_routed_finds_nothing() -> None:
    assert found([("example.com", "/")], "/", "other.org") == ""
    assert found([("example.com", "/")], "/", None) == ""


# --- what is remembered ---


def test_a_request_line_remembers_its_route_per_host() -> None:
    router = Router([("a.org", "/", handler("a")), ("b.org", "/", handler("b"))])
    heads = Heads(65536, 100)
    names = [router.find(asked("/", host, heads)).__name__ for host in ("a.org", "b.org", "a.org", "b.org")]
    assert names == ["a", "b", "a", "b"]


def test_a_client_that_makes_up_hosts_fills_no_memory_and_is_still_routed() -> None:
    router = Router([("*.a.org", "/", handler("a")), ("", "/", handler("any"))])
    heads = Heads(65536, 100)
    for number in range(100):
        assert router.find(asked("/", f"x{number}.a.org", heads)).__name__ == "a"
        assert router.find(asked("/", f"x{number}.b.org", heads)).__name__ == "any"
    assert len(asked("/", "x0.a.org", heads).line.prepared) == VIEWS


def test_what_lines_remember_of_hosts_is_within_the_bound_of_lines() -> None:
    router = Router([("a.example", "/", handler("a")), ("", "/", handler("any"))])
    bound = 1_000_000
    heads = Heads(65536, 100, cache_bytes=bound, whole_bytes=0)
    tracemalloc.start()
    for number in range(2000):
        for other in range(10):
            router.find(asked(f"/{number}", f"{other}{'x' * 240}", heads))
            router.find(asked(f"/{number}", f"{other}{'x' * 60}", heads))
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown < 1.2 * bound  # lines, and the few blocks with the hosts


def test_two_routers_do_not_see_each_others_memory() -> None:
    heads = Heads(65536, 100)
    one, two = Router([("", "/", handler("one"))]), Router([("", "/", handler("two"))])
    assert [router.find(asked("/", heads=heads)).__name__ for router in (one, two)] == ["one", "two"]


# --- answers of the router's own ---


def test_404_is_a_plain_text() -> None:
    answer = parse(exchange(not_found, request("/nothing")))
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (
        404,
        "text/plain; charset=utf-8",
        b"404 Not Found\n",
    )


def test_options_of_the_whole_server_is_204_whatever_is_routed() -> None:
    for routes in ([], [("", "/", handler("any"))], [("example.com", "/", handler("it"))]):
        assert Router(routes).find(asked("*", method="OPTIONS")) is whole_server
    assert parse(exchange(whole_server, request("*", method="OPTIONS"))).status == 204


# --- against a second, plainer statement of the rule ---

SEGMENT = st.sampled_from(["a", "b", "ab"])
PREFIX = st.lists(SEGMENT, max_size=3).map(lambda parts: "/" + "/".join(parts))
NAME = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3).map(".".join)
PATTERN = st.one_of(st.just(""), NAME, NAME.map("*.{}".format))


def expected(routes: list[tuple[str, str]], host: str, path: str) -> str:
    def rank(route: tuple[str, str]) -> tuple[int, int, int] | None:
        pattern, prefix = route
        if not (path + "/").startswith(prefix.rstrip("/") + "/"):
            return None
        if pattern == host:
            return 2, 0, len(prefix)
        if pattern.startswith("*.") and host.endswith(pattern[1:]):
            return 1, len(pattern), len(prefix)
        return (0, 0, len(prefix)) if pattern == "" else None

    ranked = [(rank(route), route) for route in routes]
    best = max((pair for pair in ranked if pair[0] is not None), default=None)
    return "" if best is None else f"{best[1][0]} {best[1][1]}"


@given(routes=st.lists(st.tuples(PATTERN, PREFIX), max_size=8, unique=True), host=NAME, path=PREFIX)
def test_any_routes_and_any_request_obey_the_rule(routes: list[tuple[str, str]], host: str, path: str) -> None:
    try:
        assert found(routes, path, host) == expected(routes, host, path)
    except BadRequest:
        pytest.fail("the request was meant to be valid")
