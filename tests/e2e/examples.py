"""The example directories of config/examples as tests start them, and a client that behaves like a browser."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from html import unescape
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.e2e.harness import ROOT, Answer

EXAMPLES = ROOT / "config" / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/server.toml"))
_LEFTOVERS = shutil.ignore_patterns("run", "uploads", "collected", "db.sqlite3", "__pycache__")


def copy(name: str, directory: Path) -> None:
    """Put what belongs to the example into `directory`."""
    shutil.copytree(EXAMPLES / name, directory, ignore=_LEFTOVERS, dirs_exist_ok=True)


def config(name: str) -> str:
    """The example's server.toml, but for the port, which becomes the one that the harness chooses."""
    text = (EXAMPLES / name / "server.toml").read_text()
    assert text.count("127.0.0.1:8000") >= 1
    return text.replace("127.0.0.1:8000", "127.0.0.1:PORT")


def contents(directory: Path) -> dict[str, bytes]:
    """All files below it, as `serve` takes them."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class Browser:
    """One keep-alive connection with a jar of cookies. It sends Origin with every POST, as browsers do."""

    def __init__(self, port: int, host: str = "127.0.0.1", cookies: Mapping[str, str] | None = None) -> None:
        self.host = f"{host}:{port}"
        self.cookies = dict(cookies or {})
        self._connection = HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.connect()
        self._connection.auto_open = 0  # if the server were to close, the next request would fail

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        headers = {"Host": self.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        for field in response.headers.get_all("Set-Cookie", []):
            self.cookies.update({name: morsel.value for name, morsel in SimpleCookie(field).items()})
        return Answer(response.status, response.headers, response.read())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
        """Submit a form; `Origin` may be given."""
        headers = {"Origin": f"http://{self.host}", "Content_Type": "application/x-www-form-urlencoded", **headers}
        return self.request("POST", path, urlencode(fields).encode(), **headers)

    def upload(self, path: str, field: str, name: str, content: bytes) -> Answer:
        """Submit a form with a file in it (RFC 7578)."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content
        body += f"\r\n--{boundary}--\r\n".encode()
        return self.request("POST", path, body, Content_Type=f"multipart/form-data; boundary={boundary}")


def found(pattern: str, page: Answer) -> str:
    """What the group of a regular expression matches in a page, unescaped."""
    match = re.search(pattern, page.body.decode())
    assert match, (pattern, page)
    return unescape(match[1])


def squares() -> bytes:
    """What squares.csv of the examples holds."""
    rows: list[Any] = [f"{number},{number * number}\n" for number in range(10_000)]
    return "".join(["number,square\n", *rows]).encode()
