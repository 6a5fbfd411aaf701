"""h11 as the second opinion: what it makes of requests, and of the responses that a server gives."""

from __future__ import annotations

import re
from typing import NamedTuple

import h11
import h11._readers as readers

# h11 refuses the white space before an extension that RFC 9112 §7.1.1 has read over (the BWS of its grammar)
CHUNK_HEADER = readers.chunk_header_re.pattern.replace(b"(?P<chunk_ext>", rb"[ \t]*(?P<chunk_ext>")
readers.chunk_header_re = re.compile(CHUNK_HEADER)

LIMIT = 1 << 20  # bytes of a head, beyond what any test sends


class Answer(NamedTuple):
    """A response as a strict client sees it; field names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = ""


class Asked(NamedTuple):
    """A request as h11 sees it; field names are in lower case."""

    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes


def answers(data: bytes, methods: list[str], *, partial: bool = False) -> list[Answer]:
    """The responses in `data` to requests by `methods`, after whose end the server has closed (or not: `partial`).

    Interim responses are in the list as well. Raises h11.RemoteProtocolError for what a client cannot make sense of: a
    body cut short, bytes after a response that was said to be the last.
    """
    client = h11.Connection(h11.CLIENT, LIMIT)
    client.receive_data(data)
    if not partial:
        client.receive_data(b"")
    found: list[Answer] = []
    for number, method in enumerate(methods):
        if not client.trailing_data[0]:
            break
        if number:
            client.start_next_cycle()
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        _answer(client, found)
        if client.their_state is not h11.DONE:
            break
    assert client.trailing_data[0] == b"", "bytes after the last response"
    return found


def _answer(client: h11.Connection, found: list[Answer]) -> None:
    """Read one final response, with the interim ones before it, into `found`."""
    while True:
        event = client.next_event()
        if isinstance(event, (h11.InformationalResponse, h11.Response)):
            fields = [(bytes(name).decode(), bytes(value).decode("latin-1")) for name, value in event.headers]
            for name in ("content-length", "transfer-encoding", "connection", "date", "server"):
                assert [key for key, _ in fields].count(name) <= 1, f"{name} is repeated"
            found.append(Answer(event.status_code, dict(fields), b"", bytes(event.reason).decode("latin-1")))
        elif isinstance(event, h11.Data):
            found[-1] = found[-1]._replace(body=found[-1].body + bytes(event.data))
        else:  # EndOfMessage, NEED_DATA where the answer is partial
            return


def requests(data: bytes, skip: bytes = b"") -> list[Asked]:
    """The whole requests that `data` begins with, one after the other, until h11 refuses what comes.

    `skip` is what it does not get to see before each.
    """
    found: list[Asked] = []
    while data := data.removeprefix(skip):
        server = h11.Connection(h11.SERVER, LIMIT)
        server.receive_data(data)
        try:
            event = server.next_event()
            if not isinstance(event, h11.Request):
                break
            body = b""
            while isinstance(part := server.next_event(), h11.Data):
                body += bytes(part.data)
            if not isinstance(part, h11.EndOfMessage):
                break
        except h11.RemoteProtocolError:
            break
        fields = [(bytes(name).decode(), bytes(value).decode("latin-1")) for name, value in event.headers]
        target, version = bytes(event.target).decode(), bytes(event.http_version).decode()
        found.append(Asked(bytes(event.method).decode(), target, version, fields, body))
        data = server.trailing_data[0]
    return found
