"""Peers: the kernel says who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from prefork.net import peer


def test_we_ourselves_are_no_strangers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer.user(ours) == os.geteuid()
        assert peer.stranger(ours) is None


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can be somebody else")
def test_another_user_is_one_to_whom_root_is_none() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # to an abstract name, which has no permissions (unix(7))
        listener.listen()
        os.seteuid(12345)
        try:
            client.connect(listener.getsockname())
            assert peer.stranger(client) is None
        finally:
            os.seteuid(0)
        with listener.accept()[0] as accepted:
            assert peer.stranger(accepted) == 12345
