"""The protocol of a listener: what happens between the accept of a client and the first byte of the conversation.

Owns the choice of that protocol. Today all listeners speak HTTP/1 in clear text.
"""

from __future__ import annotations

import socket
from typing import Any

from prefork.http.forwarded import canonical
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client
from prefork.http.registry import Server
from prefork.net import accept
from prefork.net.stream import Stream
from prefork.settings.address import Address


class Greeting:
    """Begins the connections of one worker's `server`. All listeners share one parser with its caches."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._heads = Http1(server).heads
        self._made: dict[Address, accept.Greet] = {}

    def protocol_for(self, address: Address, listener: socket.socket) -> accept.Greet:
        """The function that begins a connection, as a task, for each client of `listener` at `address`.

        It is made once: with it, the answers that may be repeated would be lost whenever the worker accepts anew.
        """
        if address not in self._made:
            self._made[address] = self._greet(address, listener)
        return self._made[address]

    def _greet(self, address: Address, listener: socket.socket) -> accept.Greet:
        server = self._server
        loop, min_rate = server.loop, server.http.min_send_rate
        protocol = Http1(server, self._heads)
        is_unix = address.kind == "unix"
        where = listener.getsockname()
        name, port = (address.path, "") if is_unix else (where[0], str(where[1]))

        def greet(socket: socket.socket, peer: Any) -> None:
            socket.setblocking(False)
            host, from_port = ("", 0) if is_unix else peer[:2]
            if host.startswith("::ffff:"):  # an IPv4 client of a dual-stack socket
                host = canonical(host)
            client = Client(host, from_port, "http", name, port, not is_unix)
            connection = Connection(protocol, Stream(loop, socket, min_rate), client)
            loop.spawn(connection.serve(), "a connection", eager=True)

        return greet
