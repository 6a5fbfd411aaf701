"""Texts that are held against requests, or made of them: what would be taken literally, and is not meant so."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import BadRequest
from prefork.http.paths import decode, merge
from prefork.settings import kinds
from prefork.settings.schema import Settings

Load = Callable[..., Settings]
Problems = Callable[..., list[str]]

PLAIN = "expected a plain path, which stands for all below it, not a pattern, got"
DECODED = "expected a decoded path, got"
NORMAL = (
    'expected a path that starts with "/" and has no "?", "#", "//", no "." or ".." segments and no control characters'
)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/*.php", f'{PLAIN} "/*.php"'),
        ("/{x}", f'{PLAIN} "/{{x}}"'),
        ("/users/<int:id>", f'{PLAIN} "/users/<int:id>"'),
        ("/users/:id", f'{PLAIN} "/users/:id"'),
        ("/assets/*", f'{PLAIN} "/assets/*": write "/assets/"'),
        ("/assets/**", f'{PLAIN} "/assets/**": write "/assets/"'),
        ("/*", f'{PLAIN} "/*": write "/"'),
        ("/*/x/*", f'{PLAIN} "/*/x/*"'),
        ("/(a|b)", f'{PLAIN} "/(a|b)"'),
        ("/a$", f'{PLAIN} "/a$"'),
        ("/[0-9]+", f'{PLAIN} "/[0-9]+"'),
        ("/a\\.php", f'{PLAIN} "/a\\\\.php"'),
        ("/a%2Fb", f'{DECODED} "/a%2Fb": write "/a/b"'),
        ("/a%20b", f'{DECODED} "/a%20b": write "/a b"'),
        ("/caf%c3%a9", f'{DECODED} "/caf%c3%a9": write "/café"'),
        ("/%2e%2e/b", f'{DECODED} "/%2e%2e/b"'),
        ("/a%00", f'{DECODED} "/a%00"'),
        ("/%FF", f'{DECODED} "/%FF"'),
        ("/%252F", f'{DECODED} "/%252F"'),
        ("//x", f'{NORMAL}, got "//x"'),
        ("/a/../b", f'{NORMAL}, got "/a/../b"'),
        ("/x?y=z", f'{NORMAL}, got "/x?y=z"'),
    ],
)
def test_a_path_that_no_request_matches_is_refused(problems: Problems, path: str, problem: str) -> None:
    assert problems(f"[[route]]\npath = '{path}'\nstatus = true") == [f"route[0].path: {problem}"]


@pytest.mark.parametrize("path", ["/$metadata", "/a+b", "/v1/x:cancel", "/100%", "/a;b", "/@me", "/a'b(c)", "/.x/..y"])
def test_a_path_of_unusual_characters_is_none_the_less_one(path: str) -> None:
    assert kinds.PATH.convert(path) == path


@given(st.text(alphabet="./ab%2eF:$*é", max_size=12).map(lambda text: "/" + text))
def test_a_path_that_is_taken_is_one_that_requests_can_have(text: str) -> None:
    try:
        path = kinds.PATH.convert(text)
    except ValueError:
        return
    try:
        assert merge(decode(quote(path))).encode("latin-1").decode() == path
    except BadRequest:
        pytest.fail("no request has this path")


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("_", 'expected a host name, got "_": write "" for every host'),
        (".example.com", 'expected a host name, got ".example.com": write "*.example.com"'),
        ("~www", 'expected a host name, without a regular expression or a variable, got "~www"'),
        ("$host", 'expected a host name, without a regular expression or a variable, got "$host"'),
    ],
)
def test_a_host_of_another_servers_grammar_is_refused(problems: Problems, host: str, problem: str) -> None:
    assert problems(f"[[route]]\nhost = '{host}'\nstatus = true") == [f"route[0].host: {problem}"]


ALONE = 'the only variable here is "$request_uri"; a dollar sign is "%24"'
CHOSEN = 'expected a path or a host before "$request_uri", else clients choose it, got'


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("https://x$request_url", 'unknown variable "$request_url" in "https://x$request_url" '),
        ("https://x${request_uri}", 'unknown variable "${request_uri}" in "https://x${request_uri}" '),
        ("https://x$request_uri2", 'unknown variable "$request_uri2" in "https://x$request_uri2" '),
        ("https://$host/", f'unknown variable "$host" in "https://$host/" ({ALONE})'),
        ("https://$host$request_uri", f'unknown variable "$host" in "https://$host$request_uri" ({ALONE})'),
        ("/$1", f'unknown variable "$1" in "/$1" ({ALONE})'),
        (
            "https://x{uri}",
            'expected a path or URL without braces, got "https://x{uri}": '
            '"$request_uri" is the path and query of the request, and braces are "%7B" and "%7D"',
        ),
        *(
            (f"{before}$request_uri", f'{CHOSEN} "{before}$request_uri"')
            for before in ("", "/", "//", "https://", "x:")
        ),
    ],
)
def test_a_redirect_that_would_be_sent_literally_or_anywhere_is_refused(
    problems: Problems, to: str, problem: str
) -> None:
    if problem.endswith(" "):
        problem += '(did you mean "$request_uri"?)'
    assert problems(f"[[route]]\nredirect = '{to}'") == [f"route[0].redirect: {problem}"]
    assert problems(f"[[route]]\nredirect = {{ to = '{to}' }}") == [f"route[0].redirect.to: {problem}"]


@pytest.mark.parametrize(
    "to",
    [
        "https://x$request_uri",
        "//x$request_uri",
        "/new$request_uri",
        "/?to=$request_uri&or=$request_uri",
        "/a$",
        "/$/b",
    ],
)
def test_a_redirect_may_repeat_what_was_asked_for(to: str) -> None:
    assert kinds.LOCATION.convert(to) == to


FILES = "[[route]]\nfiles = {{ root = 'public', {} }}"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("try = ['$url']", 'try: expected paths that begin with "/" or "$uri", without "..", got "$url"'),
        ("try = ['/x$url']", 'try: unknown variable "$url" in "/x$url" (did you mean "$uri"?)'),
        ("try = ['/x$args']", 'try: unknown variable "$args" in "/x$args" (the only variable here is "$uri")'),
        ("try = ['$uri', '$uri_x']", 'try: unknown variable "$uri_x" in "$uri_x" (did you mean "$uri"?)'),
        ("try = ['=404']", 'try: expected paths, got "=404": if none of them leads to a file, it is 404 anyway'),
        ("try = ['/a?b']", 'try: expected paths of files, without a pattern or a query, got "/a?b"'),
        ("try = ['/*.html']", 'try: expected paths of files, without a pattern or a query, got "/*.html"'),
        ("index = ['a', '*.html']", 'index: expected a file name, not a pattern or a variable, got "*.html"'),
        ("index = '$uri.html'", 'index: expected a file name, not a pattern or a variable, got "$uri.html"'),
        (
            "cache_control = { '*.{css,js}' = 'x' }",
            'cache_control."*.{css,js}": expected a pattern of "*", "?" and "[...]" alone, got "*.{css,js}": '
            "write one for each name",
        ),
        (
            "types = { '*.md' = 'text/html' }",
            'types."*.md": expected an extension such as ".md", not a pattern, got "*.md": write ".md"',
        ),
    ],
)
def test_what_would_find_no_file_is_refused(problems: Problems, key: str, problem: str) -> None:
    assert problems(FILES.format(key)) == [f"route[0].files.{problem}"]


def test_patterns_and_variables_that_are_known_are_taken(settings: Load) -> None:
    files = (
        "try = ['$uri', '$uri.html', '/a/$uri/b'], types = { '*' = 'text/x' }, cache_control = { '/a/[!x]?*' = 'x' }"
    )
    route = settings(FILES.format(files)).routes[0]
    assert route.files is not None
    assert route.files.try_ == ("$uri", "$uri.html", "/a/$uri/b")
