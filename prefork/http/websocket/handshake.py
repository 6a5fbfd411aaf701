"""The opening handshake of a WebSocket (RFC 6455 §4.2). Owns the reading of the request, and the 101 for it."""

from __future__ import annotations

import base64
import binascii

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_subprotocol
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from prefork.errors import BadRequest
from prefork.http.members import MOST_MEMBERS
from prefork.http.message import Fields, Request, Response, Upgrade, plain

# 12 bits of window and 5 of memory take 32 KiB a connection in place of 300, and compress short messages no worse
DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)
OURS = frozenset(("sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"))


class Handshake:
    """A valid handshake. `subprotocols` are those that the client offers, `extensions` those that both sides accept."""

    def __init__(self, request: Request, compression: bool) -> None:
        """Raises BadRequest where the handshake is malformed, or offers more than MOST_MEMBERS subprotocols."""
        fields = request.headers.fields
        key, offered = fields.get("sec-websocket-key", ""), fields.get("sec-websocket-protocol", "")
        try:
            if len(base64.b64decode(key.encode("latin-1"), validate=True)) != 16:
                raise BadRequest("a Sec-WebSocket-Key that is not 16 bytes (RFC 6455 §4.2.1)")
            if offered.count(",") >= MOST_MEMBERS:
                raise BadRequest(f"more than {MOST_MEMBERS} subprotocols of a WebSocket")
            self.subprotocols: list[str] = [*parse_subprotocol(offered)] if offered else []
            self._extension, self.extensions = _negotiate(fields.get("sec-websocket-extensions", ""), compression)
        except (binascii.Error, InvalidHeader) as error:
            raise BadRequest(f"a malformed WebSocket handshake: {error}") from None
        self._accept = accept_key(key)

    def response(self, body: Upgrade, subprotocol: str, fields: Fields) -> Response:
        """The 101 that begins the conversation `body`, with further header `fields`.

        Raises ValueError where these are among OURS, and for a subprotocol that the client has not offered: it would
        not accept that (RFC 6455 §4.1).
        """
        if subprotocol and subprotocol not in self.subprotocols:
            offered = ", ".join(self.subprotocols) or "none"
            raise ValueError(f"the subprotocol {subprotocol!r} is not among those that the client offers: {offered}")
        ours = [("Sec-WebSocket-Accept", self._accept)]
        if self._extension:
            ours.append(("Sec-WebSocket-Extensions", self._extension))
        if subprotocol:
            ours.append(("Sec-WebSocket-Protocol", subprotocol))
        for name, _ in fields:
            if name.lower() in OURS:
                raise ValueError(f"{name} is the server's to say")
        return Response(101, (*ours, *fields), body)


def refusal(request: Request) -> Response | None:
    """The answer to a request for a WebSocket whose method, body or version is not as RFC 6455 §4.2.1 requires.

    None where all three are. Handshake checks the rest.
    """
    if request.method != "GET" or request.body.size != 0:
        return plain(400)
    if request.headers.get("sec-websocket-version") != "13":
        return plain(426, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    return None


def _negotiate(offered: str, compression: bool) -> tuple[str, list[Extension]]:
    """The Sec-WebSocket-Extensions field of the answer, "" for none, and the extensions in it. Raises InvalidHeader.

    An offer with more than MOST_MEMBERS commas and semicolons is not read. Then no extension is accepted, as a server
    may do (RFC 6455 §9.1).
    """
    if not offered or not compression or offered.count(",") + offered.count(";") > MOST_MEMBERS:
        return "", []
    protocol = ServerProtocol(extensions=[DEFLATE])
    field, extensions = protocol.process_extensions(Headers({"Sec-WebSocket-Extensions": offered}))
    return field or "", extensions
