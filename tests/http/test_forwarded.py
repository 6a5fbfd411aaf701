"""Whom a trusted proxy speaks for, and that nobody else is believed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from prefork.errors import BadRequest
from prefork.http.forwarded import Forwarding
from prefork.http.h1.fields import FieldParser
from prefork.http.h1.parse import Heads
from prefork.http.message import Client, Headers
from prefork.http.proxy_fields import ProxyFields
from prefork.settings.kinds import X_FORWARDED
from tests.http.conftest import parse

NETWORKS = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]
PROXIES = Forwarding(NETWORKS, X_FORWARDED)
STANDARD = Forwarding(NETWORKS, ["forwarded"])


def block(*lines: str) -> Headers:
    return FieldParser(100).parse("".join(f"{line}\r\n" for line in ("Host: a", *lines)).encode())[0]


def peer(address: str = "10.0.0.1") -> Client:
    return Client(address, 4711, "http", "127.0.0.1", "8000")


def told(*lines: str, address: str = "10.0.0.1") -> tuple[str, str]:
    """The client by the family of fields that the lines are of, which is the one that counts."""
    proxies = STANDARD if lines[0].startswith("Forwarded") else PROXIES
    client, _ = proxies.judge(peer(address), block(*lines))
    return client.address, client.scheme


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.9", "::ffff:a00:9/128"])
@pytest.mark.parametrize("address", ["10.0.0.9", "::ffff:10.0.0.9"])
def test_a_network_of_mapped_addresses_is_the_ipv4_one(network: str, address: str) -> None:
    proxies = Forwarding([network], X_FORWARDED)
    assert proxies.trusts(address)
    assert not proxies.trusts("192.0.2.1")


@pytest.mark.parametrize("address", ["10.255.0.1", "192.0.2.1", "2001:db8::7", "::ffff:10.0.0.9"])
def test_addresses_and_networks_are_trusted(address: str) -> None:
    assert PROXIES.trusts(address)


@pytest.mark.parametrize("address", ["11.0.0.1", "192.0.2.2", "::1", "", "nonsense"])
def test_all_others_are_not(address: str) -> None:
    assert not PROXIES.trusts(address)


def test_who_comes_through_a_unix_socket_is_trusted_where_that_is_said() -> None:
    assert Forwarding(["unix"], X_FORWARDED).trusts("")
    assert not Forwarding(["unix"], X_FORWARDED).trusts("127.0.0.1")


def test_a_proxy_that_says_nothing_is_the_client() -> None:
    client = peer()
    assert PROXIES.judge(client, block())[0] is client


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["X-Forwarded-For: 198.51.100.7"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https"], ("198.51.100.7", "https")),
        (["X-Forwarded-Proto: HTTPS"], ("10.0.0.1", "https")),
        (["X-Forwarded-For: 198.51.100.7:555"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: [2001:dead::1]:555"], ("2001:dead::1", "http")),
        (["X-Forwarded-For: 2001:dead::1"], ("2001:dead::1", "http")),
        (["X-Forwarded-For: 198.51.100.7, 10.0.0.3"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 10.0.0.3"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: 10.0.0.4, 10.0.0.3"], ("10.0.0.4", "http")),
        (["X-Forwarded-Proto: ftp"], ("10.0.0.1", "http")),
        (["X-Forwarded-Proto: wss"], ("10.0.0.1", "https")),
        (["X-Forwarded-Proto: ws"], ("10.0.0.1", "http")),
        (["Forwarded: for=198.51.100.7;proto=WSS"], ("198.51.100.7", "https")),
        (["X-Forwarded-For: ::ffff:198.51.100.7"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: ::FFFF:c633:6407"], ("198.51.100.7", "http")),
        (["X-Forwarded-For: 2001:DEAD:0:0::1"], ("2001:dead::1", "http")),
        (['Forwarded: for="[::ffff:198.51.100.7]:555"'], ("198.51.100.7", "http")),
        (["Forwarded: for=198.51.100.7;proto=https;by=10.0.0.1"], ("198.51.100.7", "https")),
        (['Forwarded: For="[2001:dead::1]:555"; Proto=https'], ("2001:dead::1", "https")),
        (["Forwarded: for=198.51.100.7;proto=https, for=10.0.0.3;proto=http"], ("198.51.100.7", "https")),
    ],
)
def test_a_trusted_proxy_is_believed(lines: list[str], expected: tuple[str, str]) -> None:
    assert told(*lines) == expected


@pytest.mark.parametrize(
    "line", ["X-Forwarded-For: 6.6.6.6, 198.51.100.7", "Forwarded: for=6.6.6.6, for=198.51.100.7, for=10.0.0.2"]
)
def test_what_the_client_made_up_to_the_left_does_not_count(line: str) -> None:
    assert told(line)[0] == "198.51.100.7"


@pytest.mark.parametrize("told_of", ["unknown", "_hidden", "", "999.1.1.1", "1.2.3", "<script>", '"', "a" * 5000])
def test_nonsense_is_not_an_address(told_of: str) -> None:
    assert told(f"X-Forwarded-For: {told_of}")[0] == "10.0.0.1"
    assert told(f"Forwarded: for={told_of}")[0] == "10.0.0.1"


def test_a_hop_that_is_not_told_ends_the_chain() -> None:
    assert told("X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.3")[0] == "10.0.0.3"


USUAL = "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: http"


@pytest.mark.parametrize(
    ("written", "passed_on", "proxies"),
    [
        (USUAL, ("Forwarded: for=10.0.0.9;proto=https",), PROXIES),
        (
            ("Forwarded: for=198.51.100.7;proto=http",),
            ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https"),
            STANDARD,
        ),
    ],
)
def test_the_family_of_fields_that_a_proxy_only_passes_on_is_dropped(
    written: tuple[str, ...], passed_on: tuple[str, ...], proxies: Forwarding
) -> None:
    client, headers = proxies.judge(peer(), block(*written, *passed_on))
    assert (client.address, client.scheme) == ("198.51.100.7", "http")
    assert headers.pairs == block(*written).pairs


@pytest.mark.parametrize(
    "line",
    [
        'for=198.51.100.7;host="evil,for=6.6.6.6;x="',  # a Host that the proxy has quoted
        'for=", for=198.51.100.7;host="a"',  # begun by the client, to swallow what the proxy adds
        'for=6.6.6.6;x=", for=198.51.100.7;by="10.0.0.1"',
        '"", ", for=6.6.6.6, for=198.51.100.7',
        'for=6.6.6.6\\", for=198.51.100.7;host="a"',
        "=;,,;, for=198.51.100.7",
    ],
)
def test_what_the_client_writes_reaches_into_nothing_that_the_proxy_writes(line: str) -> None:
    assert told(f"Forwarded: {line}")[0] == "198.51.100.7"


@pytest.mark.parametrize(
    "element", ["for=6.6.6.6;for=5.5.5.5", "for=6.6.6.6 x", "for=6.6.6.6;host=a b", 'for=6.6.6.6;x="']
)
def test_malformed_element_tells_nothing(element: str) -> None:
    assert told(f"Forwarded: for=198.51.100.7, {element}") == ("10.0.0.1", "http")


HARDLY_ANY = 0.02  # seconds: a way through 30,000 characters that is quadratic takes 1 s and more, a linear one 0.0005


def fastest(work: Callable[[], object]) -> float:
    """Seconds of processor time that it takes when nothing comes in between."""
    times = []
    for _ in range(5):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times)


@pytest.mark.parametrize("piece", ['",', '"', ",", ";", "for=10.0.0.1,", "\\", "x", "abc=1;", "for=10.0.0.1;"])
def test_forwarded_that_is_long_takes_no_time(piece: str) -> None:
    headers = block("Forwarded: " + piece * (30_000 // len(piece)) + "for=10.0.0.1")
    assert fastest(lambda: STANDARD.judge(peer(), headers)) < HARDLY_ANY


@pytest.mark.parametrize("piece", ["10.0.0.1,", ",", "[", "1.", "2001:db8::1,", " ", ": "])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto"])
def test_x_forwarded_that_is_long_takes_no_time(name: str, piece: str) -> None:
    headers = block(f"{name}: " + piece * (30_000 // len(piece)) + "10.0.0.1")
    assert fastest(lambda: PROXIES.judge(peer(), headers)) < HARDLY_ANY


def test_a_long_chain_of_proxies_of_ours_takes_no_time() -> None:
    headers = block("X-Forwarded-For: " + ",".join(f"10.0.{number >> 8}.{number & 255}" for number in range(2500)))
    assert fastest(lambda: PROXIES.judge(peer(), headers)) < HARDLY_ANY


def test_distinct_parameters_of_one_long_element_take_no_time() -> None:
    headers = block("Forwarded: " + ";".join(f"p{number}=1" for number in range(3000)))
    assert fastest(lambda: STANDARD.judge(peer(), headers)) < HARDLY_ANY


@pytest.mark.parametrize("hop", ["X-Forwarded-For: {}", "Forwarded: {}"])
def test_the_client_behind_thirty_proxies_of_ours_is_found(hop: str) -> None:
    named = "" if hop.startswith("X") else "for="
    chain = ", ".join(named + address for address in ("198.51.100.7", *["10.0.0.2"] * 30))
    assert told(hop.format(chain))[0] == "198.51.100.7"


def test_what_a_stranger_says_is_dropped_and_the_rest_is_as_it_was() -> None:
    headers = block("X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Forwarded-Proto: https", "X-A: b")
    stranger = peer("198.51.100.9")
    client, stripped = PROXIES.judge(stranger, headers)
    assert client is stranger
    assert stripped.pairs == (("host", "a"), ("x-a", "b"))
    assert PROXIES.judge(stranger, headers)[1] is stripped


def test_what_comes_twice_is_left_as_it_came_by_the_stripping() -> None:
    headers = block("A: b", "X-Forwarded-For: 1.2.3.4", "a: c", "Connection: close")
    _, stripped = PROXIES.judge(peer("198.51.100.9"), headers)
    assert stripped.pairs == (("host", "a"), ("a", "b"), ("a", "c"), ("connection", "close"))
    assert stripped.get("a") == "b, c"


FORGED = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Prefix: /admin",
    "X-Forwarded-Scheme: https",
    "X-Forwarded-Ssl: on",
    "X-Forwarded-Server: a",
    "X-Forwarded-By: a",
    "X-Forwarded-User: root",
    "X-Forwarded-Client-Cert: Hash=0",
    "X-Forwarded-Whatever-Comes-Next: 1",
    "X-Forwarded: for=127.0.0.1",
    "Forwarded: for=127.0.0.1;proto=https",
    "X-Real-IP: 127.0.0.1",
    "True-Client-IP: 127.0.0.1",
    "CF-Connecting-IP: 127.0.0.1",
    "X-Scheme: https",
    "X-Url-Scheme: https",
    "Front-End-Https: on",
    "X-Script-Name: /admin",
    "X-Original-URL: /admin",
    "X-Rewrite-URL: /admin",
    "Remote-User: root",
    "REMOTE-USER: root",
    "X-Remote-User: root",
    "X-Remote-Group: system:masters",
    "X-Auth-Request-Email: root@example.com",
    "X-Authenticated-User: root",
    "X-SSL-Client-Verify: SUCCESS",
    "Client-Cert: :AAAA:",
    "X-Accel-Mapping: /etc/=/",
    "X_Forwarded_For: 127.0.0.1",  # which is the same one to what makes WSGI of ASGI
]


@pytest.mark.parametrize("line", FORGED)
def test_what_only_a_proxy_may_write_is_dropped_of_everybody_else(line: str) -> None:
    stranger = peer("198.51.100.9")
    for believing in (PROXIES, STANDARD, Forwarding([], X_FORWARDED)):
        client, headers = believing.judge(stranger, block(line, "X-A: b"))
        assert client is stranger
        assert headers.pairs == (("host", "a"), ("x-a", "b"))


@pytest.mark.parametrize("line", FORGED[4:])
def test_what_a_trusted_proxy_does_not_write_it_has_from_its_client(line: str) -> None:
    _, headers = PROXIES.judge(peer(), block("X-Forwarded-For: 198.51.100.7", line))
    assert headers.pairs == block("X-Forwarded-For: 198.51.100.7").pairs


def test_what_a_trusted_proxy_is_said_to_write_arrives_and_is_dropped_of_others() -> None:
    written = ("x-forwarded-for", "remote-user", "x-our-tenant")
    proxies = Forwarding(NETWORKS, written)
    lines = "Host: a\r\nX-Forwarded-For: 198.51.100.7\r\nRemote-User: anna\r\nX-Our-Tenant: 7\r\n"
    _, headers = parse(f"GET / HTTP/1.1\r\n{lines}\r\n".encode(), Heads(32768, 100, ProxyFields(written)))
    assert proxies.judge(peer(), headers)[1] is headers
    assert proxies.judge(peer("198.51.100.9"), headers)[1].pairs == (("host", "a"),)


def test_a_scheme_that_the_proxy_is_not_said_to_write_is_not_believed() -> None:
    proxies = Forwarding(NETWORKS, ["x-forwarded-for"])
    client, headers = proxies.judge(peer(), block("X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https"))
    assert (client.address, client.scheme) == ("198.51.100.7", "http")
    assert "x-forwarded-proto" not in headers


@pytest.mark.parametrize(
    ("real_ip", "arrives"),
    [("198.51.100.7", True), ("::ffff:198.51.100.7", True), ("127.0.0.1", False), ("", False), ("nonsense", False)],
)
def test_x_real_ip_arrives_where_it_says_what_is_believed_anyhow(real_ip: str, arrives: bool) -> None:
    _, headers = PROXIES.judge(peer(), block("X-Forwarded-For: 198.51.100.7", f"X-Real-IP: {real_ip}"))
    assert ("x-real-ip" in headers) is arrives


def test_what_is_dropped_of_a_trusted_proxy_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    proxies = Forwarding(NETWORKS, X_FORWARDED)
    with caplog.at_level("INFO", "prefork"):
        for _ in range(2):
            proxies.judge(peer(), block("Remote-User: anna", "X-Scheme: https"))
        for number in range(100):
            proxies.judge(peer(), block(f"X-Forwarded-{number}: a", "X-Forwarded-" + "b" * 1000 + ": a"))
    assert caplog.messages[0] == (
        "the proxy at 10.0.0.1 passes on remote-user, x-scheme; dropped, as http.trusted_fields does not name them"
    )
    assert len(caplog.messages) < 20
    assert max(map(len, caplog.messages)) < 200


@pytest.mark.parametrize(
    "line", ["X-A: b", "Via: 1.1 a", "X-Request-ID: 7", "X-Forward: a", "Remote: a", "Cookie: a=b"]
)
def test_a_block_without_such_fields_has_none(line: str) -> None:
    assert block(line).proxy_fields == frozenset()


def test_a_block_has_its_own_such_fields_and_none_of_another_s() -> None:
    with pytest.raises(BadRequest):
        block("X-Real-IP: 192.0.2.7", "not a field")
    for _ in range(3):
        assert block("X-A: b").proxy_fields == frozenset()
        assert block("X-Scheme: https", "X-A: b").proxy_fields == {"x-scheme"}


def test_what_is_remembered_of_names_that_clients_make_up_is_bounded() -> None:
    known = ProxyFields()
    for number in range(5000):
        assert not known[f"x-{number}"]
    assert not known["x" * 30_000]
    assert len(known) <= 1024
    assert max(map(len, known)) < 100
