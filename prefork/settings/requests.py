"""Texts that are matched with requests, or made of them: hosts, paths, file names, redirects. Owns no key.

A variable or a pattern of another server is refused, as it would be taken literally here: the route would match
nothing, or its clients would be sent to `https://$host/`. A text that no request can ever match is refused, too.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from prefork.settings.grammar import BRACKETED, FIELD_VALUE, NAME
from prefork.settings.wording import nearest, quoted

REQUEST_URI = "$request_uri"
URI = "$uri"

_HOST = re.compile(rf"(?:\*\.)?(?!.*\*){NAME}|{BRACKETED}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"\$(?:\{[^}]*\}?|[A-Za-z0-9_]+)")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PATTERN = re.compile(
    r"[*<>^|\\{}\[\]]|/:[A-Za-z_]|\$\Z"
)  # of nginx, Caddy, Flask, FastAPI, Express; none is usual in a URL
_NO_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]*")  # a scheme, slashes: what follows would be the host


def path(text: str) -> str:
    """The path of a route, a plain prefix. Raises ValueError: without a message, or with one that tells what to do."""
    if not text.startswith("/") or "?" in text or "#" in text or _CONTROL.search(text):
        raise ValueError
    if _PATTERN.search(text):
        plain = text.rstrip("*")
        hint = f": write {quoted(plain)}" if plain.endswith("/") and not _PATTERN.search(plain) else ""
        raise ValueError(
            f"expected a plain path, which stands for all below it, not a pattern, got {quoted(text)}{hint}"
        )
    if _ESCAPE.search(text):
        plain = unquote(text)
        hint = "" if _ESCAPE.search(plain) or "\ufffd" in plain or not _is_normal(plain) else f": write {quoted(plain)}"
        raise ValueError(f"expected a decoded path, got {quoted(text)}{hint}")
    if not _is_normal(text):
        raise ValueError
    return text


def _is_normal(text: str) -> bool:
    """Whether requests can have this path, as they are routed by a normal spelling (http/paths.py)."""
    return "//" not in text and {".", ".."}.isdisjoint(text.split("/")) and not _CONTROL.search(text)


def host(text: str) -> str:
    """The host of a route, in lower case. Raises ValueError as `path` does."""
    if text == "_":
        raise ValueError('expected a host name, got "_": write "" for every host')
    if text.startswith(".") and text.strip("."):
        raise ValueError(f"expected a host name, got {quoted(text)}: write {quoted('*' + text)}")
    if "~" in text or "$" in text:
        raise ValueError(f"expected a host name, without a regular expression or a variable, got {quoted(text)}")
    name = text.rstrip(".")  # a final dot means the same (RFC 1034 §3.1), and is cut off from a request's host, too
    if text and not _HOST.fullmatch(name):
        raise ValueError
    return name.lower()


def location(text: str) -> str:
    """The target of a redirect; REQUEST_URI is its only variable. Raises ValueError as `path` does.

    REQUEST_URI begins with a slash. Without a host or a path of the site before it, a request for `//evil.example/`
    would lead to another site.
    """
    if not FIELD_VALUE.fullmatch(text):
        raise ValueError
    _check_variables(text, REQUEST_URI, '; a dollar sign is "%24"')
    if "{" in text or "}" in text:
        what = f'"{REQUEST_URI}" is the path and query of the request, and braces are "%7B" and "%7D"'
        raise ValueError(f"expected a path or URL without braces, got {quoted(text)}: {what}")
    before, variable, _ = text.partition(REQUEST_URI)
    if variable and _NO_HOST.fullmatch(before):
        raise ValueError(
            f'expected a path or a host before "{REQUEST_URI}", else clients choose it, got {quoted(text)}'
        )
    return text


def tries(texts: list[str]) -> tuple[str, ...]:
    """The paths to try for a file; URI is their only variable. Raises ValueError as `path` does."""
    for text in texts:
        if text.startswith("="):
            raise ValueError(f"expected paths, got {quoted(text)}: if none of them leads to a file, it is 404 anyway")
        if not text.startswith(("/", URI)) or ".." in text.split("/") or "\0" in text:
            raise ValueError(f'expected paths that begin with "/" or "{URI}", without "..", got {quoted(text)}')
        _check_variables(text, URI)
        if "*" in text or "?" in text:
            raise ValueError(f"expected paths of files, without a pattern or a query, got {quoted(text)}")
    return tuple(texts)


def index(value: str | list[str]) -> tuple[str, ...]:
    """The names of index files. Raises ValueError as `path` does."""
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if "/" in name or "\0" in name:
            raise ValueError
        if "*" in name or _VARIABLE.search(name):
            raise ValueError(f"expected a file name, not a pattern or a variable, got {quoted(name)}")
    return names


def file_pattern(text: str) -> str:
    """A pattern of file names or paths, in the syntax of fnmatch. Raises ValueError as `path` does."""
    if "\0" in text:
        raise ValueError
    if re.search(r"[{}\\|$]", text):
        raise ValueError(
            f'expected a pattern of "*", "?" and "[...]" alone, got {quoted(text)}: write one for each name'
        )
    return text


def file_type(text: str) -> str:
    """The files of a content type: an extension, a name, or "*". Raises ValueError as `path` does."""
    if "/" in text:
        raise ValueError
    if "*" in text and text != "*":
        hint = f": write {quoted(text[1:])}" if re.fullmatch(r"\*\.[^*]+", text) else ""
        raise ValueError(f'expected an extension such as ".md", not a pattern, got {quoted(text)}{hint}')
    return text


def _check_variables(text: str, known: str, more: str = "") -> None:
    """Raise ValueError for a variable other than the `known` one."""
    for variable in _VARIABLE.findall(text):
        if variable != known:
            near = nearest(variable.strip("${}").lower(), [known[1:]])
            what = f'did you mean "{known}"?' if near else f'the only variable here is "{known}"{more}'
            raise ValueError(f"unknown variable {quoted(variable)} in {quoted(text)} ({what})")
