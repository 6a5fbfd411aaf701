"""An ASGI middleware that knows the protocol: whatever passes it in either direction is held against the specification.

What breaks it raises AssertionError where it happens, and is appended to `complaints`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REQUEST = {  # what the scopes of a request and of a WebSocket have in common
    "type": str,
    "asgi": dict,
    "http_version": str,
    "scheme": str,
    "path": str,
    "raw_path": bytes,
    "query_string": bytes,
    "root_path": str,
    "headers": list,
    "client": (tuple, type(None)),
    "server": (tuple, type(None)),
    "state": dict,
    "extensions": dict,
}
HTTP = {**REQUEST, "method": str}
WEBSOCKET = {**REQUEST, "subprotocols": list}


class Validator:
    """Wraps `application`; checks its scopes, and what goes to and fro in them."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application
        self.complaints: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        conversations = {"http": _Http, "websocket": _WebSocket, "lifespan": _Lifespan}
        self.check(scope["type"] in conversations, f"a scope of type {scope['type']!r}")
        checked = conversations[scope["type"]](self, scope)

        async def checked_receive() -> Message:
            message = await receive()
            checked.received(message)
            return message

        async def checked_send(message: Message) -> None:
            await send(message)
            checked.sent(message)

        await self.application(scope, checked_receive, checked_send)

    def check(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)
            raise AssertionError(complaint)


class _Http:
    def __init__(self, validator: Validator, scope: Message) -> None:
        self.check = validator.check
        self.body_ended = self.disconnected = False
        self.stage = "start"
        self.trailers = False
        _check_scope(self.check, scope, HTTP)
        self.check(scope["method"] == scope["method"].upper(), "the method is not upper case")
        self.check(scope["scheme"] in ("http", "https"), f"the scheme {scope['scheme']!r}")

    def received(self, message: Message) -> None:
        if message["type"] == "http.request":
            self.check(not self.body_ended, "http.request after the end of the body")
            self.check(not self.disconnected, "http.request after http.disconnect")
            self.check(type(message["body"]) is bytes, "a body that is not bytes")
            self.check(type(message["more_body"]) is bool, "more_body is not a bool")
            self.check(bool(message["body"]) or not message["more_body"], "an empty piece in mid-body")
            self.body_ended = not message["more_body"]
        else:
            self.check(message == {"type": "http.disconnect"}, f"received {message!r}")
            self.disconnected = True

    def sent(self, message: Message) -> None:
        """What `send` has let pass."""
        kind, stage = message["type"], self.stage
        allowed = {
            "start": {"http.response.start"},
            "body": {"http.response.body", "http.response.pathsend"},
            "trailers": {"http.response.trailers"},
        }
        self.check(kind in allowed.get(stage, {"http.response.body"}), f"{kind!r} was accepted at {stage}")
        self.check(stage != "complete", f"{kind!r} was accepted after the response")
        if kind == "http.response.start":
            self.stage = "body"
            self.trailers = bool(message.get("trailers"))
        elif kind == "http.response.trailers":
            self.stage = "trailers" if message.get("more_trailers") else "complete"
        elif message.get("more_body"):
            self.stage = "streaming"
        else:
            self.stage = "trailers" if self.trailers else "complete"


class _WebSocket:
    def __init__(self, validator: Validator, scope: Message) -> None:
        self.check = validator.check
        self.connected = self.disconnected = False
        self.stage = "connecting"
        _check_scope(self.check, scope, WEBSOCKET)
        self.check(set(scope) == set(WEBSOCKET), f"a scope of {set(scope)}")
        self.check(scope["scheme"] in ("ws", "wss"), f"the scheme {scope['scheme']!r}")
        self.check({type(each) for each in scope["subprotocols"]} <= {str}, f"{scope['subprotocols']!r}")

    def received(self, message: Message) -> None:
        kind = message["type"]
        self.check((kind == "websocket.connect") != self.connected, f"{kind!r} received, connected: {self.connected}")
        self.connected = True
        self.check(not self.disconnected or kind == "websocket.disconnect", f"{kind!r} after websocket.disconnect")
        if kind == "websocket.receive":
            self.check(self.stage != "connecting", "a message before websocket.accept")
            text, data = message.get("text"), message.get("bytes")
            self.check((text is None) != (data is None), f"text {text!r} and bytes {data!r}")
            self.check(type(text) is str or type(data) is bytes, f"a message of {message!r}")
        elif kind == "websocket.disconnect":
            self.disconnected = True
            self.check(type(message["code"]) is int and type(message["reason"]) is str, f"received {message!r}")
        else:
            self.check(message == {"type": "websocket.connect"}, f"received {message!r}")

    def sent(self, message: Message) -> None:
        """What `send` has let pass."""
        kind = message["type"]
        allowed = {
            "connecting": {"websocket.accept", "websocket.close", "websocket.http.response.start"},
            "denying": {"websocket.http.response.body"},
            "open": {"websocket.send", "websocket.close"},
        }
        self.check(kind in allowed.get(self.stage, ()), f"{kind!r} was accepted while {self.stage}")
        if kind == "websocket.accept":
            self.stage = "open"
        elif kind == "websocket.http.response.start" or message.get("more_body"):
            self.stage = "denying"
        elif kind != "websocket.send":
            self.stage = "closed"


class _Lifespan:
    def __init__(self, validator: Validator, scope: Message) -> None:
        self.check = validator.check
        self.check(isinstance(scope["state"], dict), "no state")
        self.check(set(scope) == {"type", "asgi", "state"}, f"a lifespan scope of {set(scope)}")
        self.seen: list[str] = []

    def received(self, message: Message) -> None:
        self.seen.append(message["type"])
        started = ["lifespan.startup", "lifespan.startup.complete"]
        self.check(self.seen in (started[:1], [*started, "lifespan.shutdown"]), f"received {self.seen}")

    def sent(self, message: Message) -> None:
        self.seen.append(message["type"])


def _check_scope(check: Callable[[bool, str], None], scope: Message, keys: dict[str, Any]) -> None:
    """What requests and WebSockets have in common; `keys` are those that there are, with their types."""
    for key, kind in keys.items():
        check(isinstance(scope.get(key), kind), f"scope[{key!r}] is {scope.get(key)!r}")
    check(scope["asgi"]["version"] == "3.0", "not ASGI 3")
    check(scope["path"].startswith(("/", "*")), f"the path {scope['path']!r}")
    check(b"?" not in scope["raw_path"], "raw_path has the query")
    check(scope["path"].startswith(scope["root_path"]), "the path does not begin with root_path")
    for name, value in scope["headers"]:
        check(type(name) is bytes and type(value) is bytes, f"the field {name!r} is not bytes")
        check(name == name.lower() and not name.startswith(b":"), f"the field name {name!r}")
