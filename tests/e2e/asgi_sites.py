"""What tests of real ASGI applications share: how they ask, and that nothing was found at the applications' border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e.harness import Server


def ask(server: Server, path: str, host: str = "") -> httpx.Response:
    """One GET on a connection of its own, to `host` where it is given."""
    fields = {"Host": host} if host else {}
    return httpx.get(f"http://127.0.0.1:{server.port}{path}", headers=fields, timeout=10)


@contextmanager
def without_complaints(server: Server, hosts: Sequence[str] = ("",)) -> Iterator[Server]:
    """The server; when the block ends, the validator (asgi_validator) of each host's application has no complaint."""
    yield server
    for host in hosts:
        assert ask(server, "/complaints", host).json() == []


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """For the module's `server`; it keeps cookies and connections."""
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as client:
        yield client
