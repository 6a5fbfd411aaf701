"""The fixtures `serve` and `serve_module`, by which every end-to-end test gets its servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import Server

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(config, files={path: content}, args=[...], wait=True, env={})`: a running Server, closed in the end.

    The first server of a test runs in `tmp_path`, further ones in directories below it. `files` are made there before
    the start. With `wait=False` it comes back at once, for a start that is meant to fail, say.
    """
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """`serve` for servers that all tests of a module share: they are closed after the last one."""
    with serving(tmp_path_factory.mktemp("module")) as start:
        yield start


@contextmanager
def serving(directory: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        servers: list[Server] = []

        def start(
            config: str,
            files: Mapping[str, str | bytes] | None = None,
            args: Sequence[str] = (),
            wait: bool = True,
            env: Mapping[str, str] | None = None,
        ) -> Server:
            home = directory / f"server{len(servers) + 1}" if servers else directory
            for name, content in (files or {}).items():
                path = home / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            server = Server(home, config, args, env)
            servers.append(server)
            # Once it is closed; pytest shows what is printed here only where the test fails.
            stack.callback(lambda: print(f"--- stderr of the server in {home}\n{server.stderr}"))
            stack.callback(server.close)
            if wait:
                server.wait_ready()
            return server

        yield start
