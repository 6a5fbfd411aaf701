"""What a WSGI application is told: the environ, as PEP 3333 and RFC 3875 have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from wsgiref.util import request_uri
from wsgiref.validate import validator

import pytest

from prefork import __version__
from prefork.bounded import LONGEST_NAME, NAMES
from prefork.handlers.apps.wsgi.application import _VARIABLES, _fields
from prefork.http.message import Client, Headers
from tests.handlers.exchange import call, environ, exchange, parse, request, wsgi

UNIX = Client("", 0, "http", "/run/app.sock", "", direct=False)


def test_every_variable_without_a_dot_is_a_native_string() -> None:
    seen = environ("/a?b=c", "X-A: 1", "Content-Type: text/plain", method="POST", body=b"abc")
    seen.pop("body")
    assert {name: value for name, value in seen.items() if "." not in name and type(value) is not str} == {}


def test_the_cgi_variables_of_a_plain_request() -> None:
    seen = environ("/shop/cart?item=1&item=2", mount="/shop")
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/cart",
        "QUERY_STRING": "item=1&item=2",
        "REQUEST_URI": "/shop/cart?item=1&item=2",
        "RAW_URI": "/shop/cart?item=1&item=2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_SOFTWARE": f"prefork/{__version__}",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "example.com",
    }
    assert {name: value for name, value in seen.items() if "wsgi." not in name and name != "body"} == expected


def test_the_wsgi_variables() -> None:
    seen = environ()
    assert seen["wsgi.version"] == (1, 0)
    assert seen["wsgi.url_scheme"] == "http"
    assert (seen["wsgi.multithread"], seen["wsgi.multiprocess"], seen["wsgi.run_once"]) == (True, True, False)
    assert seen["wsgi.input_terminated"] is True
    assert callable(seen["wsgi.file_wrapper"])


def test_the_scheme_is_the_clients() -> None:
    seen = environ(client=Client("192.0.2.7", 50000, "https", "127.0.0.1", "8443"))
    assert (seen["wsgi.url_scheme"], seen["SERVER_PORT"]) == ("https", "8443")


def test_a_client_on_a_unix_socket_has_no_address() -> None:
    seen = environ(client=UNIX)
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("", "0")


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        ("example.com", "https", ("example.com", "443")),
        ("example.com", "http", ("example.com", "80")),
        ("example.com:8443", "https", ("example.com", "8443")),
        ("example.com:", "https", ("example.com", "443")),
        ("[2001:db8::7]", "http", ("[2001:db8::7]", "80")),
        ("[2001:db8::7]:81", "http", ("[2001:db8::7]", "81")),
    ],
)
@pytest.mark.parametrize("socket", [("/run/app.sock", ""), ("127.0.0.1", "8000")])
def test_behind_a_proxy_the_server_is_the_one_that_the_client_has_asked(
    socket: tuple[str, str], host: str, scheme: str, expected: tuple[str, str]
) -> None:
    """Django's check of the Referer against cross-site requests takes the port into account."""
    client = Client("192.0.2.7", 0, scheme, *socket, direct=False)
    seen = environ("/", f"Host: {host}", client=client)
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == expected


def test_who_does_not_say_which_server_it_asks_means_this_machine() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [f"{environ['SERVER_NAME']} {environ['SERVER_PORT']}".encode()]

    assert parse(exchange(wsgi(application), b"GET / HTTP/1.0\r\n\r\n", client=UNIX)).body == b"localhost 80"


@pytest.mark.parametrize(
    ("mount", "target", "script_name", "path_info"),
    [
        ("", "/", "", "/"),
        ("", "/app/x", "", "/app/x"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/app/x/y", "/app", "/x/y"),
        ("/app", "/app//x", "/app", "//x"),
        ("/app", "//app//x", "/app", "//x"),
        ("/app", "/%2Fapp", "/app", ""),
        ("/app", "/app//../app/x", "/app", "/x"),
        ("/a/b", "//a///b/c//", "/a/b", "/c//"),
        ("", "//a//b", "", "//a//b"),
        ("/app", "/%61pp/x", "/app", "/x"),
        ("/app", "/other/../app/x", "/app", "/x"),
        ("/a/b", "/a/b/c/", "/a/b", "/c/"),
    ],
)
def test_script_name_is_the_mount_and_path_info_the_rest(
    mount: str, target: str, script_name: str, path_info: str
) -> None:
    seen = environ(target, mount=mount)
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (script_name, path_info)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/caf%C3%A9", "/café"),
        ("/%E2%82%AC/x", "/€/x"),
        ("/a%20b+c", "/a b+c"),
        ("/a%2Fb", "/a/b"),
        ("/a%3Fb", "/a?b"),
        ("/100%2525", "/100%25"),
    ],
)
def test_path_info_is_decoded_once_and_tunnelled_as_latin_1(target: str, path: str) -> None:
    assert environ(target)["PATH_INFO"].encode("latin-1").decode("utf-8") == path


def test_path_info_may_be_any_bytes() -> None:
    assert environ("/%FF%80")["PATH_INFO"].encode("latin-1") == b"/\xff\x80"


@pytest.mark.parametrize("query", ["", "a=%20&b=%C3%A9", "a=1?b=2", "%zz", "a+b;c"])
def test_the_query_string_is_raw(query: str) -> None:
    assert environ(f"/x?{query}")["QUERY_STRING"] == query


def test_the_query_string_is_empty_where_there_is_none() -> None:
    assert environ("/x")["QUERY_STRING"] == ""


def test_the_request_uri_is_as_received() -> None:
    target = "/a/../%7Eme/caf%c3%a9?x=%41"
    seen = environ(target)
    assert seen["REQUEST_URI"] == seen["RAW_URI"] == target


def test_fields_are_upper_case_with_underscores() -> None:
    seen = environ("/", "X-Request-Id: 7", "aCCept: */*")
    assert (seen["HTTP_X_REQUEST_ID"], seen["HTTP_ACCEPT"]) == ("7", "*/*")


def test_field_values_are_latin_1_without_the_white_space_around() -> None:
    seen = environ("/", "X-Name:\t caf\xc3\xa9 \t ")
    assert seen["HTTP_X_NAME"].encode("latin-1").decode("utf-8") == "café"


def test_repeated_fields_are_joined_by_commas_and_cookies_by_semicolons() -> None:
    seen = environ("/", "X-A: 1", "Cookie: a=1", "x-a: 2", "Cookie: b=2", "X-A: 3")
    assert (seen["HTTP_X_A"], seen["HTTP_COOKIE"]) == ("1, 2, 3", "a=1; b=2")


def test_a_name_with_an_underscore_cannot_pose_as_one_with_a_dash() -> None:
    seen = environ("/", "X-User: real", "X_User: forged", "x_other: forged", "Content_Length: 5")
    assert seen["HTTP_X_USER"] == "real"
    assert "forged" not in str(seen.values())
    assert "CONTENT_LENGTH" not in seen


def test_the_proxy_field_is_dropped() -> None:  # CVE-2016-5385
    assert "HTTP_PROXY" not in environ("/", "Proxy: http://evil.example/")


def test_content_type_and_content_length_have_no_prefix() -> None:
    seen = environ("/", "Content-Type: text/plain", method="POST", body=b"abc")
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"], seen["body"]) == ("text/plain", "3", b"abc")
    assert "HTTP_CONTENT_TYPE" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


def test_without_a_body_there_is_no_content_length_unless_the_client_says_zero() -> None:
    assert "CONTENT_LENGTH" not in environ()
    assert environ("/", "Content-Length: 0", method="POST")["CONTENT_LENGTH"] == "0"


def test_a_chunked_body_gets_its_length_and_no_transfer_encoding() -> None:
    seen = environ("/", "Transfer-Encoding: chunked", method="POST", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (seen["CONTENT_LENGTH"], seen["body"]) == ("5", b"abcde")
    assert "HTTP_TRANSFER_ENCODING" not in seen


def test_an_empty_chunked_body_has_length_zero() -> None:
    seen = environ("/", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n\r\n")
    assert (seen["CONTENT_LENGTH"], seen["body"]) == ("0", b"")


def test_two_chunked_requests_with_the_same_head_have_each_their_own_length() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode()]

    one, two = (
        request("/", "Transfer-Encoding: chunked", method="POST", body=body)
        for body in (b"3\r\nabc\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n")
    )
    first = parse(exchange(wsgi(application), one + two))
    assert (first.body, parse(first.rest).body) == (b"3", b"1")


def test_the_authority_of_an_absolute_target_takes_the_place_of_host() -> None:
    seen = environ("http://other.example:81/x?y", "Host: example.com")
    assert seen["HTTP_HOST"] == "other.example:81"
    assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/x", "y")
    assert seen["REQUEST_URI"] == "http://other.example:81/x?y"


def test_http_1_0_may_come_without_a_host() -> None:
    seen: dict[str, Any] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return [b""]

    exchange(wsgi(application), b"GET / HTTP/1.0\r\n\r\n")
    assert "HTTP_HOST" not in seen
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert request_uri(seen) == "http://127.0.0.1:8000/"


def test_the_url_can_be_reconstructed() -> None:
    target = "/app/caf%C3%A9?q=1"
    assert request_uri(environ(target, "Host: example.com:81", mount="/app")) == f"http://example.com:81{target}"


def test_an_application_may_change_its_environ_and_nobody_else_sees_it() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answer = environ.get("HTTP_X_A", "gone"), environ["PATH_INFO"], environ.get("mine", "no")
        environ.update(mine="yes", PATH_INFO="/changed")
        del environ["HTTP_X_A"], environ["wsgi.version"]
        start_response("200 OK", [])
        return [" ".join(answer).encode()]

    rest = exchange(wsgi(application), request("/p", "X-A: 1") * 4)  # from the second on the fields are remembered
    for _ in range(4):
        answer = parse(rest)
        assert answer.body == b"1 /p no"
        rest = answer.rest


# --- wsgiref.validate watches both sides: whatever it objects to would be a 500 ---


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    body = environ["wsgi.input"].read(1 << 20)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    print("seen", file=environ["wsgi.errors"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield environ["wsgi.input"].readline(1 << 20)
    yield b""
    yield from environ["wsgi.input"]
    yield from environ["wsgi.input"].readlines(10)


def write(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    say = start_response("200 OK", [("Content-Type", "text/plain")])
    say(environ["wsgi.input"].read(1 << 20))
    return []


@pytest.mark.parametrize("application", [echo, stream, write])
@pytest.mark.parametrize("body", [b"", b"line\nanother\n"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("mount", ["", "/app"])
def test_the_validator_finds_nothing(application: Any, body: bytes, method: str, mount: str) -> None:
    answer = call(validator(application), "/app/x?y=z", "Content-Type: a/b", method=method, body=body, mount=mount)
    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize("application", [echo, stream, write])
def test_the_validator_finds_nothing_with_head(application: Any) -> None:
    answer = call(validator(application), "/", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("application", [echo, stream])
def test_the_validator_finds_nothing_on_a_unix_socket(application: Any) -> None:
    answer = parse(exchange(wsgi(validator(application)), request("/"), client=UNIX))
    assert answer.status == 200


def test_what_is_remembered_of_field_names_is_bounded_in_size() -> None:
    for number in range(2 * NAMES):
        name = f"x{number}-{'y' * (number % 2 * 10_000)}"
        assert _fields(Headers.of([(name, "z")]), {}) == {f"HTTP_{name.upper().replace('-', '_')}": "z"}
        assert len(_VARIABLES) <= NAMES
        assert max(map(len, _VARIABLES)) <= LONGEST_NAME
