"""The service manager's variables: taken out of the environment, and believed as far as they make sense."""

from __future__ import annotations

import os

import pytest

from prefork.process.master.service_manager import ServiceManager


@pytest.mark.parametrize("interval", ["9" * 400, "1" * 5000, "-1", "\u0663", "soon", "0", ""])
def test_a_watchdog_interval_that_is_none_is_none(interval: str) -> None:
    variables = {"WATCHDOG_USEC": interval, "WATCHDOG_PID": str(os.getpid()), "NOTIFY_SOCKET": "/nowhere"}
    manager = ServiceManager(variables)
    assert variables == {}
    assert manager.environment() == {"NOTIFY_SOCKET": "/nowhere"}
