from __future__ import annotations

import base64
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.http.message import Client, Headers, Request, RequestBody, RequestLine
from prefork.observe.access_log import AccessLog, compile_format
from prefork.observe.sink import Sink
from tests.conftest import eventually

FOR_EVER = 3600.0  # seconds
CLIENT = Client("192.0.2.7", 50000, "http", "localhost", "8000")
ALL_VARIABLES = (
    "$remote_addr $time_local $time_iso8601 $request $request_method $request_uri $uri $args $server_protocol"
    " $status $bytes_sent $body_bytes_sent $request_time $host $http_user_agent $http_x_forwarded_for $pid $remote_user"
)
latin1 = st.text(st.characters(max_codepoint=0xFF))


def make_request(target: str = "/a%20b?q=1", path: str = "/a b", query: str = "q=1", **fields: str) -> Request:
    headers = Headers.of(tuple((name.replace("_", "-"), value) for name, value in fields.items()))
    return Request(RequestLine("GET", target, path, query, "", 1), headers, cast(RequestBody, None), CLIENT)


def logged(format: str, request: Request | None, client: Client = CLIENT) -> str:
    """What a file holds once one request has been logged."""
    with tempfile.NamedTemporaryFile() as file:
        sink = Sink(file.name)
        log = AccessLog(format, sink)
        log.record(client, request, 200, 200, 1434, 0.0125)
        log.flush()
        sink.close()
        return file.read().decode()


@pytest.fixture
def _october(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is 13:55:36.5 on 10 October 2000, seven hours west of Greenwich."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 971211336_500_000_000)
        patch.setenv("TZ", "MST+7")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_october")
def test_common_is_the_common_log_format() -> None:
    line = logged("common", make_request())
    assert line == '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET /a%20b?q=1 HTTP/1.1" 200 1234\n'


@pytest.mark.usefixtures("_october")
def test_combined_adds_referer_and_user_agent() -> None:
    line = logged("combined", make_request("/", "/", "", referer="http://here/", user_agent="curl/8"))
    common = '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 1234'
    assert line == f'{common} "http://here/" "curl/8"\n'


@pytest.mark.usefixtures("_october")
def test_json_is_one_object_with_numbers_and_iso_time() -> None:
    line = logged("json", make_request(host="localhost", referer="http://here/", user_agent='a"b\xe9'))
    assert json.loads(line) == {
        "time": "2000-10-10T13:55:36.500-07:00",
        "address": "192.0.2.7",
        "method": "GET",
        "target": "/a%20b?q=1",
        "version": "HTTP/1.1",
        "status": 200,
        "sent": 1434,
        "body_sent": 1234,
        "seconds": 0.0125,
        "referer": "http://here/",
        "user_agent": 'a"b\xe9',
        "host": "localhost",
    }


def test_what_is_absent_is_a_dash() -> None:
    line = logged("combined", make_request("/", "/", ""))
    assert line.endswith('"GET / HTTP/1.1" 200 1234 "-" "-"\n')
    assert logged("$args $host $remote_user", make_request("/", "/", "")) == "- - -\n"


def test_a_client_on_a_unix_socket_is_a_dash() -> None:
    assert logged("$remote_addr", make_request(), Client("", 0, "http", "localhost", "")) == "-\n"


def test_a_head_that_could_not_be_parsed_is_a_dash() -> None:
    assert '] "-" 200 1234 "-" "-"\n' in logged("combined", None)
    assert logged("$request_method $uri $server_protocol", None) == "- - -\n"
    record = json.loads(logged("json", None))
    assert (record["method"], record["target"], record["version"], record["status"]) == ("", "", "", 200)


def test_a_template_shows_its_variables() -> None:
    request = make_request(host="localhost", x_forwarded_for="10.0.0.1")
    template = (
        "$request_method|$uri|$args|$status|$bytes_sent|$body_bytes_sent|$request_time|$host|$http_x_forwarded_for|$pid"
    )
    assert logged(template, request) == f"GET|/a b|q=1|200|1434|1234|0.012500|localhost|10.0.0.1|{os.getpid()}\n"


def test_dollar_percent_and_braces_are_literal_where_meant_so() -> None:
    assert logged("100%s $$ {x} ${status}s\t→", make_request()) == "100%s $ {x} 200s\t→\n"


def test_two_formats_do_not_mix_up_what_they_derive_from_one_request() -> None:
    request = make_request(host="localhost", referer="http://here/")
    assert logged("$uri $host", request) == "/a b localhost\n"
    assert logged("$args $http_referer", request) == "q=1 http://here/\n"
    assert logged("$uri $host", request) == "/a b localhost\n"


@pytest.mark.parametrize(
    ("format", "problem"),
    [
        ("combind", "unknown format 'combind'; did you mean combined?"),
        ("", "unknown format ''"),
        ("$http_user_agent $stauts", "unknown variable $stauts; did you mean $status?"),
        ("$user_agent", "unknown variable $user_agent; did you mean $http_user_agent?"),
        ("$body_bytes", "did you mean $body_bytes_sent?"),
        ("$http_", "unknown variable $http_"),
        ("costs 5 $ $status", "$ $status: a variable is $name or ${name}, a dollar sign is $$"),
        ("${status", "a dollar sign is $$"),
        ("$status\n$status", "control characters"),
    ],
)
def test_a_format_that_cannot_be_is_refused_with_the_way_out(format: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        compile_format(format)


def test_quotes_backslashes_and_bytes_beyond_ascii_are_escaped_as_nginx_does() -> None:
    line = logged("$http_user_agent", make_request(user_agent='a"b\\c\xe9\x7f'))
    assert line == "a\\x22b\\x5Cc\\xE9\\x7F\n"


@pytest.mark.parametrize(("head", "sent", "body"), [(200, 1434, 1234), (200, 200, 0), (200, 150, 0), (0, 0, 0)])
def test_the_bodys_size_is_what_was_sent_beyond_the_head(head: int, sent: int, body: int) -> None:
    """A client may leave in the middle of it."""
    request = make_request()
    line = compile_format("$body_bytes_sent")(CLIENT, request.line, request.headers, 200, head, sent, 0.0)
    assert line == f"{body}\n"


def credentials(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode("latin-1")).decode()


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (credentials("alice:secret"), "alice"),
        (credentials("alice:se:cret").replace("Basic ", "bASIC  "), "alice"),
        (credentials("alice:"), "alice"),
        (credentials(":secret"), "-"),
        (credentials("alice"), "-"),
        (credentials(""), "-"),
        (credentials('a"b\\c\n\x1b\xe9:secret'), "a\\x22b\\x5Cc\\x0A\\x1B\\xE9"),
        (credentials("a b [c]:secret"), "a\\x20b\\x20[c]"),
        ("Basic", "-"),
        ("Basic YWxpY2U6c2VjcmV", "-"),
        ("Basic YWxp Y2U6c2VjcmV0", "-"),
        ("Basic \xe9\xe9\xe9\xe9", "-"),
        (f"{credentials('alice:secret')}, {credentials('bob:secret')}", "-"),
        (credentials("alice:secret").replace("Basic", "Bearer"), "-"),
        ("", "-"),
    ],
)
def test_the_user_is_that_of_basic_credentials_and_never_the_password(authorization: str, user: str) -> None:
    line = logged("$remote_user", make_request(authorization=authorization))
    assert line == f"{user}\n"
    assert " - alice [" in logged("combined", make_request(authorization=credentials("alice:secret")))


@given(latin1 | latin1.map(credentials))
def test_no_credentials_break_a_line_or_leave_their_place_in_it(authorization: str) -> None:
    line = logged("common", make_request(authorization=authorization))
    assert re.fullmatch(r'192\.0\.2\.7 - [!#-\[\]-~\\]+ \[[^]]*\] "GET /a%20b\?q=1 HTTP/1\.1" 200 1234\n', line)


@given(latin1, latin1, latin1, latin1)
def test_no_text_of_a_client_breaks_a_line(target: str, path: str, agent: str, address: str) -> None:
    request = make_request(target, path, target, user_agent=agent, x_forwarded_for=agent, referer=path, host=agent)
    client = Client(address, 0, "http", "", "")
    for format in ("common", "combined", "json", ALL_VARIABLES):
        line = logged(format, request, client)
        assert line.endswith("\n")
        assert line[:-1].isascii()
        assert line[:-1].isprintable()


@given(latin1, latin1, latin1)
def test_no_text_of_a_client_leaves_its_quotes(target: str, referer: str, agent: str) -> None:
    line = logged("combined", make_request(target, user_agent=agent, referer=referer))
    quoted = r'"[^"\\]*(?:\\x[0-9A-F]{2}[^"\\]*)*"'
    assert re.fullmatch(rf"192\.0\.2\.7 - - \[[^]]*\] {quoted} 200 1234 {quoted} {quoted}\n", line)


@given(latin1, latin1)
def test_json_gives_back_what_the_client_sent(target: str, agent: str) -> None:
    record = json.loads(logged("json", make_request(target, user_agent=agent, referer=target, host=agent)))
    assert (record["target"], record["user_agent"], record["referer"], record["host"]) == (target, agent, target, agent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@contextmanager
def begun(target: Path | str, delay: float, format: str = "$status") -> Iterator[AccessLog]:
    """An access log whose lines are written in time."""
    sink = Sink(str(target))
    log = AccessLog(format, sink, delay)
    log.start()
    yield log
    log.stop()
    sink.close()


def record(log: AccessLog, status: int) -> None:
    log.record(CLIENT, make_request(), status, 0, 0, 0.0)


def test_lines_wait_for_others_and_are_written_together(path: Path) -> None:
    with begun(path, FOR_EVER) as log:
        log.flush()
        record(log, 200)
        record(log, 404)
        assert path.read_text() == ""
        log.flush()
        log.flush()
        assert path.read_text() == "200\n404\n"


def test_each_line_is_written_in_time_whether_others_follow_or_not(path: Path) -> None:
    with begun(path, delay=0.05) as log:
        for lines in range(1, 4):
            record(log, 200)
            record(log, 200)
            eventually(lambda lines=lines: path.read_text() == "200\n200\n" * lines, within=2)


def test_64_kib_do_not_wait(path: Path) -> None:
    request = make_request(user_agent="x" * 1023)
    with begun(path, FOR_EVER, "$http_user_agent") as log:
        for _ in range(65):
            log.record(CLIENT, request, 200, 0, 0, 0.0)
        assert path.stat().st_size == 64 * 1024
        log.flush()
        assert path.stat().st_size == 65 * 1024


def test_nothing_waits_on_a_terminal() -> None:
    keyboard, terminal = os.openpty()
    try:
        with begun(os.ttyname(terminal), FOR_EVER) as log:
            record(log, 204)
            assert os.read(keyboard, 100) == b"204\r\n"
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_once_it_is_stopped_nothing_waits(path: Path) -> None:
    with begun(path, FOR_EVER) as log:
        record(log, 200)
        log.stop()
        assert path.read_text() == "200\n"
        record(log, 404)
        assert path.read_text() == "200\n404\n"


def test_lines_of_before_a_rotation_are_in_the_old_file(path: Path) -> None:
    old = path.with_suffix(".old")
    with begun(path, FOR_EVER) as log:
        record(log, 200)
        path.rename(old)
        assert log.reopen() == ""
        record(log, 404)
        log.flush()
    assert (old.read_text(), path.read_text()) == ("200\n", "404\n")


def test_no_line_goes_into_the_file_that_has_got_the_descriptor_of_the_log(path: Path, tmp_path: Path) -> None:
    with begun(path, FOR_EVER) as log, open(tmp_path / "its own", "w+") as file:
        (fd,) = (int(name) for name in os.listdir("/proc/self/fd") if leads_to(name, path))
        os.dup2(file.fileno(), fd)  # as an application comes to it by os.closerange, and by opening what it needs
        record(log, 200)
        log.flush()
        assert file.read() == ""
        os.close(fd)
    assert path.read_text() == "200\n"


def leads_to(descriptor: str, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(f"/proc/self/fd/{descriptor}", path)
    return False


def test_no_line_is_lost_or_written_twice_while_others_write_too(path: Path) -> None:
    """A thread that logs errors has what waits written before, and the writer's own time comes all the time."""
    count = 20_000
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            log.flush()

    with begun(path, delay=0.0001, format="$bytes_sent") as log:
        other = threading.Thread(target=flush)
        other.start()
        for number in range(count):
            log.record(CLIENT, None, 200, 0, number, 0.0)
        over.set()
        other.join()
    assert path.read_text().split() == [str(number) for number in range(count)]


def test_the_time_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    render = compile_format("$time_local $time_iso8601")
    request = make_request()
    seen = []
    for now in (971211336_000, 971211336_900, 971211337_000, 971211335_999):  # clocks are also set back
        monkeypatch.setattr(time, "time_ns", lambda now=now: now * 1_000_000 + 999_999)
        seen.append(render(CLIENT, request.line, request.headers, 200, 0, 0, 0.0))
    assert [re.findall(r":(\d\d(?:\.\d+)?)[ +-]", line) for line in seen] == [
        ["36", "36.000"],
        ["36", "36.900"],
        ["37", "37.000"],
        ["35", "35.999"],
    ]
