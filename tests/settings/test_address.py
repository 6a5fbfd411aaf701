"""Addresses: every written form, and what is wrong with the others."""

from __future__ import annotations

import pytest

from prefork.settings.address import Address


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8000", Address("tcp", "127.0.0.1", 8000), "127.0.0.1:8000"),
        ("localhost:8000", Address("tcp", "localhost", 8000), "localhost:8000"),
        ("LocalHost:80", Address("tcp", "localhost", 80), "localhost:80"),
        (":8000", Address("tcp", "0.0.0.0", 8000), "0.0.0.0:8000"),
        ("[::1]:8000", Address("tcp", "::1", 8000), "[::1]:8000"),
        ("[0:0:0:0:0:0:0:1]:8000", Address("tcp", "::1", 8000), "[::1]:8000"),
        ("127.0.0.1:0", Address("tcp", "127.0.0.1", 0), "127.0.0.1:0"),
        ("my_app.internal:65535", Address("tcp", "my_app.internal", 65535), "my_app.internal:65535"),
        ("unix:run/app.sock", Address("unix", path="run/app.sock"), "unix:run/app.sock"),
        ("unix:/run/a:b.sock", Address("unix", path="/run/a:b.sock"), "unix:/run/a:b.sock"),
        ("systemd", Address("systemd"), "systemd"),
        ("systemd:web", Address("systemd", path="web"), "systemd:web"),
    ],
)
def test_an_address_is_read_and_shown(text: str, address: Address, shown: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == shown
    assert Address.parse(shown) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the port is missing"),
        ("8000", "the port is missing"),
        ("localhost", "the port is missing"),
        ("localhost:", "the port is missing"),
        ("localhost:65536", "a port from 0 to 65535"),
        ("localhost:99999999", "a port from 0 to 65535"),
        ("localhost:http", "a port from 0 to 65535"),
        ("localhost:-1", "a port from 0 to 65535"),
        ("localhost: 80", "a port from 0 to 65535"),
        ("localhost:٨٠", "a port from 0 to 65535"),
        ("256.0.0.1:80", "an IP address before the port"),
        ("[::g]:80", "an IP address before the port"),
        ("::1:80", "an IPv6 address in brackets"),
        ("http://localhost:80", "expected an address such as"),
        ("*:80", "expected an address such as"),
        ("a b:80", "expected an address such as"),
        ("localhost\n:80", "expected an address such as"),
        ("-a:80", "expected an address such as"),
        (f"{'a' * 64}:80", "expected an address such as"),
        (f"{'a.' * 127}a:80", "expected an address such as"),
        ("unix:", 'a path after "unix:"'),
        ("unix:a\0b", 'a path after "unix:"'),
    ],
)
def test_an_address_that_is_none_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        Address.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_url_is_what_a_person_types() -> None:
    assert Address.parse("127.0.0.1:8000").url == "http://127.0.0.1:8000/"
    assert Address.parse("[::1]:8000").url == "http://[::1]:8000/"
    assert Address.parse("unix:run/app.sock").url == "unix:run/app.sock"
