"""What other servers read from the environment, and prefork does not: it is told, where it would have counted."""

from __future__ import annotations

import pytest

from prefork.habits import passed_over

PORT = "PORT of the environment is not read: write --port $PORT"


@pytest.mark.parametrize(
    ("environ", "given", "told"),
    [
        ({"PORT": "8080"}, set(), [PORT]),
        ({"PORT": "8080"}, {"listen"}, []),
        ({"PORT": "8080"}, None, []),
        ({"PORT": ""}, set(), []),
        (
            {"WEB_CONCURRENCY": "3"},
            {"listen"},
            ["WEB_CONCURRENCY of the environment is not read: write --workers $WEB_CONCURRENCY"],
        ),
        ({"WEB_CONCURRENCY": "3"}, {"workers.count"}, []),
        ({"FORWARDED_ALLOW_IPS": "*"}, {"http.trusted_proxies"}, []),
        (
            {"GUNICORN_CMD_ARGS": "-w 2"},
            None,
            ["GUNICORN_CMD_ARGS of the environment is not read: write options, or keys of a file"],
        ),
        (
            {"UVICORN_PORT": "80", "UVICORN_HOST": "::"},
            {"listen"},
            ["UVICORN_HOST, UVICORN_PORT of the environment are not read: write options, or keys of a file"],
        ),
        ({"HOME": "/", "PREFORK": "x"}, set(), []),
    ],
)
def test_what_is_passed_over_is_told_with_the_option(
    environ: dict[str, str], given: set[str] | None, told: list[str]
) -> None:
    assert list(passed_over(environ, given)) == told
